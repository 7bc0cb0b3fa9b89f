"""Why a stage was late."""
