"""Where we run and how ranks start, stay alive, report failures and end."""
