"""What the transports share: the protocol, transfers that resume, the line before a board, and running a job there."""
