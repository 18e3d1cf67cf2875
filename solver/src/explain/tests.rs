//! What is said about a step, and what makes it differ.
