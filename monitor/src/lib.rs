//! What the daemon and its monitors say to each other.
