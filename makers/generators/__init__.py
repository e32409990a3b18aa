"""Where candidates come from: templates of a library, and DAO-G."""
