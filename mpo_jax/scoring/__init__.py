"""What does a model say of given answers, and how does that become a loss?"""
