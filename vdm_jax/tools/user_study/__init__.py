"""Side-by-side user studies: ballots, the page that voters see, and the scores of their answers."""
