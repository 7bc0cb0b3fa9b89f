"""Why a stage was late, and what is late now."""
