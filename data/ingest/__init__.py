"""A shop's table, folder, chat file or hub data set -> a catalogue."""
