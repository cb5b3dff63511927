"""Two runs -> paired measures, statistics, verdict, and why answers diverge."""
