package controller

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller/api"
)

// The controller's own log is told from its end on, and then as it grows, for as long as somebody listens.
func TestOwnLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "controller.log")
	c := &Controller{o: Options{LogFile: path}}
	if err := c.ownLog(t.Context(), api.LogsRequest{}, nil); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("a log that is not there: %v", err)
	}
	if err := c.ownLog(t.Context(), api.LogsRequest{Source: "agent"}, nil); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("a log of somebody else: %v", err)
	}
	if err := os.WriteFile(path, []byte("1\n2\n3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := c.ownLog(t.Context(), api.LogsRequest{Tail: 2}, func(l bus.LogLine) error { got = append(got, l.Text); return nil })
	if err != nil || !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("%q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = c.ownLog(ctx, api.LogsRequest{Tail: 1, Follow: true}, func(l bus.LogLine) error {
		switch l.Text {
		case "3":
			return os.WriteFile(path, []byte("1\n2\n3\n4\n"), 0o600)
		case "4":
			cancel()
			return nil
		}
		t.Errorf("got %q", l.Text)
		return nil
	})
	if cluster.CodeOf(err) != cluster.CodeCancelled {
		t.Errorf("ended with %v", err)
	}
}
