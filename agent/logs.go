package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/logtail"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

const (
	agentSource  = "agent"
	workerSource = "worker-"
)

// logs gives lines of a log of this node.
func (a *Agent) logs(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var q bus.LogsRequest
	if err := decode(&q); err != nil {
		return err
	}
	if q.Tail < 0 {
		return cluster.Invalid("tail", "must not be negative")
	}
	name, err := logOf(q.Source)
	if err != nil {
		return a.here(err)
	}
	// A root cannot be left, not even by a link.
	root, err := os.OpenRoot(filepath.Join(a.o.Home, "log"))
	if err != nil {
		return a.here(fmt.Errorf("open logs: %w", err))
	}
	defer root.Close() //nolint:errcheck // only read
	l := logtail.New(root, name+".log", func(text string) error { return w.Send(bus.LogLine{Text: text}) })
	defer l.Close()
	err = l.Last(q.Tail, q.Follow)
	if err == nil && q.Follow {
		err = logtail.Follow(ctx, l)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = cluster.Invalid("source", fmt.Sprintf("%q has no log on this node; there are: %s", q.Source, strings.Join(sources(root), ", ")))
	}
	return a.here(err)
}

var logName = regexp.MustCompile(`^(agent|worker-[A-Za-z0-9._@-]{1,200})$`)

// logOf is the name of the file, without its end, that a source is written to.
func logOf(source string) (string, error) {
	if source == "" {
		source = agentSource
	}
	if model, ok := strings.CutPrefix(source, workerSource); ok {
		source = workerSource + mlxbridge.LogName(model)
	}
	if !logName.MatchString(source) {
		return "", cluster.Invalid("source", `must be "agent", or "worker-" and a model`)
	}
	return source, nil
}

// sources lists the logs that there are.
func sources(root *os.Root) []string {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".log"); ok && logName.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
