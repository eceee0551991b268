package cmd

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/reach"
)

// nodePath is where a node of a cluster on another machine has its settings. A home with services of its own has none.
func nodePath(home string) string { return filepath.Join(home, "node.json") }

// readNode returns nil where this home is no node of another machine's cluster.
func readNode(home string) (*plan.Settings, string, error) {
	data, err := os.ReadFile(nodePath(home))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read settings of the node: %w", err)
	}
	var s plan.Settings
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, "", cluster.Errorf(cluster.CodeInvalid, "%s is damaged: %v", nodePath(home), err).
			WithHint("`mlxctl up` on the controller's machine installs this node again")
	}
	sum := sha256.Sum256(data)
	return &s, hex.EncodeToString(sum[:8]), nil
}

// isNode says whether the services of a home are those of a node alone.
func isNode(home string) bool {
	if _, err := os.Stat(localPath(home)); err == nil {
		return false
	}
	_, err := os.Stat(nodePath(home))
	return err == nil
}

// asLocal is what a node's settings have in common with those of services of this machine.
func asLocal(s *plan.Settings) (*localSettings, error) {
	l := &localSettings{Name: s.Name, LogLevel: s.LogLevel, Python: s.Python}
	if len(s.Models) == 0 {
		return l, nil
	}
	if err := json.Unmarshal(s.Models, &l.Models); err != nil {
		return nil, cluster.Errorf(cluster.CodeInvalid, "the node's settings of models are damaged: %v", err)
	}
	return l, nil
}

// readSettings reads what the services of a home run with: those of this machine's cluster, or, where there are none,
// those of a node, which are both then.
func readSettings(home string) (local *localSettings, node *plan.Settings, digest string, err error) {
	local, digest, err = readLocal(home)
	if err != nil || local != nil {
		return local, nil, digest, err
	}
	node, digest, err = readNode(home)
	if err != nil || node == nil {
		return nil, nil, "", err
	}
	local, err = asLocal(node)
	return local, node, digest, err
}

// usePython has workers run in an interpreter of the user's own, unless the environment names another one: that is where
// their launcher looks.
func usePython(python string) error {
	if python == "" || os.Getenv(pythonVariable) != "" {
		return nil
	}
	return os.Setenv(pythonVariable, python)
}

// nodeBus describes the connection of a node to its controller, wherever that is. The dialer has to be closed.
func (h *daemonHome) nodeBus(identity *agent.Identity, link *reach.LinkFile) (bus.Options, *reach.Dialer, error) {
	s := h.node
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM([]byte(s.CA)) {
		return bus.Options{}, nil, cluster.Errorf(cluster.CodeInvalid, "%s holds no certificate of the cluster", nodePath(h.home)).
			WithHint("`mlxctl up` on the controller's machine installs this node again")
	}
	d, err := reach.New(reach.Options{
		ServerName: s.ServerName, RootCAs: authorities, Reverse: s.ReverseAddr,
		Discover: func(ctx context.Context) ([]netip.AddrPort, error) { return bonjour.Controllers(ctx, s.ClusterID) },
		Remember: filepath.Join(h.home, "run", "controller-url"), OnLink: link.Set, Log: h.slog,
	})
	if err != nil {
		return bus.Options{}, nil, err
	}
	return bus.Options{URLs: s.URLs, CredentialsFile: identity.CredentialsPath, Dialer: d.Dial}, d, nil
}
