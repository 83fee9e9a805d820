"""Where workers live: one small interface, several implementations."""
