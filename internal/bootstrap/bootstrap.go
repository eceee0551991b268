package bootstrap

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

// Transports.
const (
	TransportLibrary = "library" // SSH in this process
	TransportOpenSSH = "openssh" // the system's ssh, for Match, ProxyCommand, GSSAPI and keys on hardware
)

// Sources of a target, best first: who named it.
const (
	SourceLocal       = "local" // it is the machine that this runs on
	SourceCommandLine = "command line"
	SourceConfig      = "config"
	SourceRoster      = "roster"
	SourceCluster     = "cluster" // the controller
	SourceBonjour     = "bonjour"
)

const (
	defaultContact = 15 * time.Second
	defaultHome    = ".mlxctl"
	// KnownHostsFile is the file in StateDir of the host keys that were agreed to.
	KnownHostsFile = "known_hosts"
)

// Target is a host as somebody named it.
type Target struct {
	Name      string         `json:"name,omitempty"` // for people; may be empty
	Host      string         `json:"host"`           // what ssh would be given: a name, an address, an alias of ssh_config
	Addresses []string       `json:"addresses,omitempty"`
	Port      int            `json:"port,omitempty"` // of SSH; zero means what ssh would use
	User      string         `json:"user,omitempty"` // empty means what ssh would use
	Source    string         `json:"source,omitempty"`
	Node      cluster.NodeID `json:"node,omitempty"`
}

// Label is what a target is called in a message.
func (t *Target) Label() string {
	for _, s := range append([]string{t.Name, t.Host}, t.Addresses...) {
		if s = untrusted.Line(s, mostName); s != "" {
			return s
		}
	}
	return "?"
}

// Asker asks the operator for a secret: the passphrase of a key, or a password.
type Asker interface {
	// Secret asks until ctx ends. It is called for one secret at a time.
	Secret(ctx context.Context, prompt string) (string, error)
}

// Options of a Bootstrap.
type Options struct {
	// StateDir holds the host keys that the operator agreed to, in known_hosts. It is made with the first of them.
	StateDir string
	// Transport is "library", which empty means, or "openssh".
	Transport string
	// Ask asks the operator; nil means that nobody is there to answer.
	Ask Asker
	// Contact is how long a host may take to let us in, without the time of the operator's answers; zero means 15 s.
	Contact time.Duration
	// Hardware is this machine's own, hashed as an agent does it; a host that says the same is this machine.
	Hardware string
	// Env reads the environment; nil means this process's.
	Env func(string) (string, bool)
	Log *slog.Logger
}

// Bootstrap reaches hosts. It keeps the connections that Probe opened for Apply and Check, until Close. Its methods may be
// called from several goroutines.
type Bootstrap struct {
	o       Options
	home    string // the operator's
	user    string // the operator's
	config  sshConfig
	known   knownHosts
	secrets *secrets

	mu       sync.Mutex
	sessions map[string]session     // guarded by mu; by the way to the host
	turns    map[string]*sync.Mutex // guarded by mu; by the way to the host, held by who looks at it
}

// New makes a Bootstrap. It reads ssh_config, makes nothing, and connects to nobody.
func New(o Options) (*Bootstrap, error) {
	if o.Contact <= 0 {
		o.Contact = defaultContact
	}
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch o.Transport {
	case "", TransportLibrary:
		o.Transport = TransportLibrary
	case TransportOpenSSH:
	default:
		return nil, cluster.Invalid("ssh.transport", "must be library or openssh")
	}
	b := &Bootstrap{o: o, sessions: map[string]session{}, turns: map[string]*sync.Mutex{}, secrets: newSecrets(o.Ask)}
	b.home, b.user = operator(o.Env)
	b.config = readSSHConfig(b.home, o.Log)
	b.known = knownHosts{own: filepath.Join(o.StateDir, KnownHostsFile), log: o.Log}
	return b, nil
}

// operator returns the home and the name of who runs this.
func operator(env func(string) (string, bool)) (home, name string) {
	home, _ = env("HOME")
	name, _ = env("USER")
	if u, err := user.Current(); err == nil {
		if home == "" {
			home = u.HomeDir
		}
		if name == "" {
			name = u.Username
		}
	}
	return home, name
}

// Close ends every connection. What is under way fails.
func (b *Bootstrap) Close() {
	b.mu.Lock()
	all := b.sessions
	b.sessions = map[string]session{}
	b.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(s.Close)
	}
	wg.Wait()
}

// turn waits until nobody else looks at the host that is reached this way: each look ends the connection of the one before.
func (b *Bootstrap) turn(way string) (done func()) {
	b.mu.Lock()
	m := b.turns[way]
	if m == nil {
		m = &sync.Mutex{}
		b.turns[way] = m
	}
	b.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// keep remembers the connection to a target, and ends the one before.
func (b *Bootstrap) keep(key string, s session) {
	b.mu.Lock()
	old := b.sessions[key]
	if s == nil {
		delete(b.sessions, key)
	} else {
		b.sessions[key] = s
	}
	b.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// reach returns a connection to a host: that of Probe where it still stands.
func (b *Bootstrap) reach(ctx context.Context, h *Host) (session, error) {
	set, err := b.resolve(&h.Target)
	if err != nil {
		return nil, err
	}
	way := cmp.Or(h.way, set.id())
	b.mu.Lock()
	s := b.sessions[way]
	b.mu.Unlock()
	if s != nil && s.Alive() {
		return s, nil
	}
	s, key, err := b.contact(ctx, set)
	if err != nil {
		return nil, b.asClusterError(set, err)
	}
	if h.Key.Fingerprint != "" && key.Fingerprint != "" && key.Fingerprint != h.Key.Fingerprint {
		s.Close()
		return nil, cluster.Errorf(cluster.CodeConflict, "%s answers with another key than a moment ago", h.Label()).
			WithHint("is one address used by two machines? run it again")
	}
	b.keep(way, s)
	return s, nil
}

// Host is what is known of one host: who told of it, and what SSH found there.
type Host struct {
	// Target is how it is reached, as the best of those named it who told of it.
	Target
	// Sources lists everybody who told of it; empty means only Target's.
	Sources []string
	// LocalName is what Bonjour calls it, of which no two Macs of one network have the same; empty where Bonjour is silent.
	LocalName string
	// RemoteLogin says that Bonjour shows it with SSH.
	RemoteLogin bool
	Key         HostKey
	Facts       Facts
	Findings    []plan.Finding
	// Self says that the host is the machine that this runs on; it needs no installation over SSH.
	Self bool

	way string // to the connection that Probe kept
}

// Failure is what keeps the host from being installed; nil where nothing does. One with a new key has not failed: it waits
// for Trust.
func (h *Host) Failure() *plan.Finding {
	for i := range h.Findings {
		if h.Findings[i].State == plan.FindingFail {
			return &h.Findings[i]
		}
	}
	return nil
}

// Warnings are what makes the host serve less well than it could, one for each cause. How this machine's ssh_config was
// read is none of the host's.
func (h *Host) Warnings() []plan.Finding {
	var out []plan.Finding
	for _, f := range h.Findings {
		if f.State == plan.FindingWarn && f.Check != CheckConfig {
			out = append(out, f)
		}
	}
	return OneCause(out)
}

// Ready says whether the host can be given to Apply.
func (h *Host) Ready() bool { return h.Failure() == nil && !h.Self && h.Facts.OS != "" }

// From says whether a source told of the host.
func (h *Host) From(source string) bool {
	return h.Source == source || slices.Contains(h.Sources, source)
}
