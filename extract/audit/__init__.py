"""What a split must not share: persons, files, source clips; and the counts that an official one has."""
