"""The one queue: segments on disk, which the local store's readers read as well."""
