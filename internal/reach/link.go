package reach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

// mostRemembered bounds the file of the last address, in bytes.
const mostRemembered = 512

// Report tells OnLink how things stand, as a connection of the bus made with this Dialer sees it: whether there is one,
// and why not. The bus says what the server thinks of the credentials; the Dialer knows how it was reached.
func (d *Dialer) Report(connected bool, err error) {
	l := LinkOf(connected, err)
	d.mu.Lock()
	switch {
	case connected && d.current != nil:
		l.Reverse = d.current.reverse
		l.URL = "tls://" + d.current.addr
	case l.State == plan.LinkConnecting && d.denied && d.calls == nil:
		l.State = plan.LinkDenied // one that is called need not dial
	}
	d.mu.Unlock()
	d.o.OnLink(l)
}

// LinkOf says how an agent and its controller stand, as far as a connection to a bus knows.
func LinkOf(connected bool, err error) plan.Link {
	if connected {
		return plan.Link{State: plan.LinkConnected}
	}
	l := plan.Link{State: plan.LinkConnecting}
	if e := cluster.AsError(err); e != nil {
		if e.Code == cluster.CodeUnauthorized {
			l.State = plan.LinkRefused
		}
		if l.Error = e.Message; e.Hint != "" {
			l.Error += "; " + e.Hint
		}
	}
	return l
}

// LinkFile is <home>/run/link.json, where an agent says how it stands with its controller. It is safe for concurrent use.
type LinkFile struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	last plan.Link // guarded by mu
}

// OpenLink begins the file of a node's process: it is connecting. What another process left is gone then.
func OpenLink(home string, node cluster.NodeID, version string, log *slog.Logger) (*LinkFile, error) {
	f := &LinkFile{
		path: LinkPath(home), log: log,
		last: plan.Link{State: plan.LinkConnecting, Node: node, PID: os.Getpid(), Version: version, At: time.Now().UTC()},
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of link: %w", err)
	}
	if err := replace(f.path, f.last); err != nil {
		return nil, err
	}
	return f, nil
}

// LinkPath is where an agent with that home says how it stands with its controller.
func LinkPath(home string) string { return filepath.Join(home, "run", "link.json") }

// Set writes a change down. Node, process and version are those of the file.
func (f *LinkFile) Set(l plan.Link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l.Node, l.PID, l.Version, l.At = f.last.Node, f.last.PID, f.last.Version, f.last.At
	if l == f.last {
		return
	}
	l.At = time.Now().UTC()
	f.last = l
	if err := replace(f.path, l); err != nil {
		f.log.Warn("cannot note the link to the controller", "err", err)
	}
}

// Close removes the file: the process ends.
func (f *LinkFile) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Warn("cannot remove the note of the link", "err", err)
	}
}

// replace writes a file that readers see whole, the old one or the new one.
func replace(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return durable.Write(path, append(data, '\n'), 0o600)
}

// recall reads the address that was right last.
func recall(path string) string {
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return "" // there is none yet
	}
	defer f.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(f, mostRemembered))
	addr := strings.TrimSpace(string(data))
	if _, _, splitErr := net.SplitHostPort(addr); err != nil || splitErr != nil {
		return ""
	}
	return addr
}

// remember notes the address that was right.
func (d *Dialer) remember(addr string) {
	d.mu.Lock()
	isNew := d.good != addr
	d.good = addr
	d.mu.Unlock()
	if !isNew || d.o.Remember == "" {
		return
	}
	err := durable.MkdirAll(filepath.Dir(d.o.Remember), 0o700)
	if err == nil {
		err = durable.Write(d.o.Remember, []byte(addr+"\n"), 0o600)
	}
	if err != nil {
		d.log.Warn("cannot note the controller's address", "err", err)
	}
}
