"""A declaration of many objects, for `./estate bench engine`: as Pulumi's program and as YAML."""
