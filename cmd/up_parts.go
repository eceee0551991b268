package cmd

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	bootplan "github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// Where a host was named, as tables and JSON say it.
const (
	sourceCommandLine = "command line"
	sourceConfig      = "config"
	sourceRoster      = "roster"
	sourceBonjour     = "bonjour"
)

// foundMac is a Mac that Bonjour saw.
type foundMac struct {
	Name, HostName string
	Addresses      []netip.Addr
	Port           int // of SSH
	RemoteLogin    bool
	Model          string
}

// macFinder looks for Macs on the local network.
type macFinder interface {
	// Scan calls found for each Mac, again when more is known of it, until the time is over.
	Scan(ctx context.Context, length time.Duration, found func(foundMac)) error
}

// target is a host as somebody named it.
type target struct {
	Name      string
	Host      string // what ssh would be given
	Addresses []string
	Port      int
	User      string
	Source    string
	Node      cluster.NodeID
}

// label is what people call it.
func (t *target) label() string {
	if t.Name != "" {
		return t.Name
	}
	return t.Host
}

// States of a host key.
const (
	keyNew     = "new" // the operator has not agreed to it yet
	keyKnown   = "known"
	keyChanged = "changed"
)

// Ways to become root on a host that matter here.
const sudoPassword = "password"

// foundHost is what was found at a target.
type foundHost struct {
	target
	Fingerprint string // of its SSH host key
	KeyState    string
	OS, Arch    string
	Model, Chip string
	Memory      int64
	Hardware    string // hashed
	Home        string // of the node there
	Sudo        string
	Installed   string // version id that runs there; empty where nothing is installed
	Unit        bootplan.UnitKind
	IsSelf      bool // it is this machine
	Findings    []bootplan.Finding

	// inner is the installer's own.
	inner any
}

// failure is what keeps the host from being installed; nil where nothing does.
func (h *foundHost) failure() *bootplan.Finding {
	for i := range h.Findings {
		if h.Findings[i].State == bootplan.FindingFail {
			return &h.Findings[i]
		}
	}
	return nil
}

// warnings are what makes the host serve less well than it could, one for each cause.
func (h *foundHost) warnings() []bootplan.Finding {
	var out []bootplan.Finding
	for _, f := range h.Findings {
		if f.State == bootplan.FindingWarn && f.Check != checkSSHConfig {
			out = append(out, f)
		}
	}
	return oneCause(out)
}

// oneCause leaves out that the controller dials an agent where the lack of sudo is why.
func oneCause(warnings []bootplan.Finding) []bootplan.Finding {
	hasNoSudo := slices.ContainsFunc(warnings, func(f bootplan.Finding) bool { return f.Check == checkSudo && strings.Contains(f.Message, "dials it") })
	return slices.DeleteFunc(warnings, func(f bootplan.Finding) bool { return hasNoSudo && f.Check == checkLink })
}

// installJob is what a host is to do, and how what only this side can do is done.
type installJob struct {
	Order  bootplan.Order
	Binary func(os, arch string) (path, versionID string, err error)
	Sign   func(ctx context.Context, node cluster.NodeID, key, hardware string) (jwt string, err error)
	Prove  func(ctx context.Context, node cluster.NodeID, versionID string, link bootplan.Link) error
}

// hostEvent is one step of one host.
type hostEvent struct {
	Host   string
	Step   string
	State  bootplan.State
	Detail string
	Err    error
	At     time.Time
	Took   time.Duration
}

// installResult is what came of an order.
type installResult struct {
	Node      cluster.NodeID
	Key       string // public
	Unit      bootplan.UnitKind
	Changed   bool
	VersionID string
	Home      string
	Log       []string // the end of the agent's log, where it did not come up
}

// installer reaches hosts and changes them.
type installer interface {
	// Probe looks and changes nothing. It may be called by several goroutines.
	Probe(ctx context.Context, targets []target) []*foundHost
	// Trust writes new host keys down, after the operator agreed to them. The hosts have to be probed again.
	Trust(hosts []*foundHost) error
	Apply(ctx context.Context, h *foundHost, job installJob, tell func(hostEvent)) (installResult, error)
	// Version is the id of this program's version on a platform, without anything being fetched.
	Version(os, arch string) (versionID string, err error)
	// Reversed is what is to be said of a host whose agent the controller has to dial.
	Reversed(h *foundHost) bootplan.Finding
	Binary(os, arch string) (path, versionID string, err error)
	Close()
}

// installerOptions are what an installer is made with.
type installerOptions struct {
	StateDir  string
	CacheDir  string
	Transport string
	Parallel  int
	Hardware  string
	// Ask asks for a secret; nil where nobody is there to answer.
	Ask func(ctx context.Context, prompt string) (string, error)
}

// admitted is the list of nodes that this cluster has admitted; *roster.Roster is one.
type admitted interface {
	List() ([]roster.Node, error)
	Find(nameOrID string) (roster.Node, error)
	Put(n roster.Node) error
	Remove(id cluster.NodeID) error
}

// parts are what commands that change other machines are made of. Tests put their own in.
type parts struct {
	finder    func() macFinder
	installer func(installerOptions) (installer, error)
	roster    func(path string) admitted
	// liveKey is the key that a node which is up proves to have been signed for it.
	liveKey func(ctx context.Context, home string, authority *trust.Authority, node cluster.NodeID) (string, error)
	// services starts those of this machine and proves them; the caller closes the connection.
	services func(ctx context.Context, opts *upOptions, cfg *config.Config, progress *iostreams.Progress) (localState, error)
}

// localState is what the services of this machine are after they were started.
type localState struct {
	client   clusterClient
	snapshot *cluster.Snapshot
	changed  bool
}

func (d *deps) lanParts() parts {
	if d.parts != nil {
		return *d.parts
	}
	return d.wiredParts()
}

// versionOf is the version in a version id, which ends with a part of a hash.
func versionOf(versionID string) string {
	if i := strings.LastIndexByte(versionID, '-'); i > 0 {
		return versionID[:i]
	}
	return versionID
}
