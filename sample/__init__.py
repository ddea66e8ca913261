"""Studies that sample many networks and end in a picture. Programs, run by path; not installed."""
