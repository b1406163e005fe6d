"""What miners, operators and auditors look at: read-only HTTP and one page. It shows; it computes nothing."""
