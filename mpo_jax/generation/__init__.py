"""What does a model write, on the mesh that trains it or on a server?"""
