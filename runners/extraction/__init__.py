"""Reading leaderboard records into rows, by rules. It reads files and returns structs; it appends nothing."""
