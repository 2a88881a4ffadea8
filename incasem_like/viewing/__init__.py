"""What a person looks at: figures and run reports."""
