package config

import (
	"fmt"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// NoContextError says that a context does not exist.
type NoContextError struct{ err *cluster.Error }

func (e *NoContextError) Error() string { return e.err.Error() }

// Unwrap gives the *cluster.Error with the hint.
func (e *NoContextError) Unwrap() error { return e.err }

func noContext(name string, origin Origin, known []string) error {
	message := fmt.Sprintf("no context %q", name)
	if origin.Level != "" {
		message += fmt.Sprintf(" (chosen by %s)", origin)
	}
	err := &cluster.Error{Code: cluster.CodeInvalid, Message: message}
	if near := cluster.Nearest(name, known); len(near) > 0 {
		return &NoContextError{err.WithHint("did you mean %q? `mlxctl context ls` lists them", near[0])}
	}
	return &NoContextError{err.WithHint("`mlxctl context ls` lists them, `mlxctl context add` makes one")}
}

// Current is the context in use; that of this home has only a name and the home.
func (c *Config) Current() Context {
	for _, x := range c.Contexts {
		if x.Name == c.Context {
			return x
		}
	}
	return Context{Name: LocalContext, Home: c.Dirs.Home}
}

// Redacted is the context without what must not be shown.
func (c Context) Redacted() Context {
	c.NATSURL, c.HTTPURL = redactURL(c.NATSURL), redactURL(c.HTTPURL)
	return c
}
