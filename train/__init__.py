"""Programs that train. They import the library and nothing beside them, and are not installed."""
