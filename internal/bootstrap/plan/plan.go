package plan

import (
	"encoding/json"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Action is what the host's side is asked to do.
type Action string

// Actions of the host's side. Each may be asked again at any time: what is right already is left alone.
const (
	Install   Action = "install"   // make the node run this version with these settings, prove it, or leave it as it was
	Uninstall Action = "uninstall" // stop it and take the unit away; with Purge, everything that was installed
	Stop      Action = "stop"      // stop it, keep everything
	Check     Action = "check"     // look, change nothing
)

// Order is the first line that the operator's side sends.
type Order struct {
	Action Action `json:"action"`
	// Operator names who asks, for whoever finds the host locked: "anna@studio pid 4711".
	Operator string `json:"operator"`
	// Home is the node's folder, absolute.
	Home string `json:"home"`
	// Version is the folder below <home>/versions whose binary this is (VersionID); the service will run that.
	Version  string   `json:"version,omitempty"`
	Settings Settings `json:"settings"`
	// Unit is how the service is to be run; empty lets the host choose the best that it can have.
	Unit UnitKind `json:"unit,omitempty"`
	// Password is for sudo, where it wants one. It is sent on standard input only, and never written down.
	Password string `json:"password,omitempty"`
	// CanSend says that the operator's side will fetch and send Python packages where the host cannot fetch them itself.
	CanSend bool `json:"can_send,omitempty"`
	// Offline has the host not even try to fetch packages.
	Offline bool `json:"offline,omitempty"`
	Purge   bool `json:"purge,omitempty"`
	// Node and ClusterID say whom an order to stop or to uninstall is for: a host that is another node, or of another
	// cluster, is left as it is. Empty means whoever is there.
	Node      cluster.NodeID `json:"node,omitempty"`
	ClusterID string         `json:"cluster_id,omitempty"`
	// TakeOver lets an installation make a node of another cluster one of this.
	TakeOver bool `json:"take_over,omitempty"`
	// Gate is how long the agent may take to reach its controller before the installation counts as failed.
	Gate time.Duration `json:"gate,omitempty"`
}

// Settings are what the agent of a node runs with; the host keeps them in <home>/node.json.
type Settings struct {
	Cluster    string   `json:"cluster"`
	ClusterID  string   `json:"cluster_id"`
	ServerName string   `json:"server_name"` // in the controller's certificate
	URLs       []string `json:"urls"`        // of the bus, any will do
	CA         string   `json:"ca"`          // PEM
	// Name is what the node is called; empty means the host's own name.
	Name string `json:"name,omitempty"`
	// ReverseAddr is where the agent listens for its controller when it may not dial itself; empty means that it dials.
	ReverseAddr string `json:"reverse_addr,omitempty"`
	LogLevel    string `json:"log_level,omitempty"`
	// Models is the section of that name of the operator's configuration.
	Models json.RawMessage `json:"models,omitempty"`
	// Python is an interpreter of the user's own for workers.
	Python string `json:"python,omitempty"`
}

// UnitKind names who runs the service on a host.
type UnitKind string

// Kinds of units, best first on their platform.
const (
	UnitLaunchDaemon UnitKind = "launchd-daemon" // macOS, with sudo: from boot, may dial the local network
	UnitLaunchAgent  UnitKind = "launchd-agent"  // macOS, without sudo: from login, served in reverse
	UnitSystemd      UnitKind = "systemd-user"
	UnitRunit        UnitKind = "runit"  // a service folder that is there and ours to write: /etc/service, or SVDIR
	UnitKeeper       UnitKind = "keeper" // our own, where there is nothing else; ends with the machine
)

// File is one file that the operator's side can send.
type File struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Steps of an installation, in order.
const (
	StepCopy     = "copy"     // the binary, by the operator's side
	StepLock     = "lock"     // against a second operator
	StepIdentity = "identity" // key and node id, made there
	StepJoin     = "join"     // the key is signed
	StepPython   = "python"   // the environment of workers
	StepUnit     = "unit"     // settings, version and service unit in place, started
	StepLink     = "link"     // the agent has reached its controller
	StepProve    = "prove"    // the controller has seen it, and a real model has answered
	StepCommit   = "commit"   // what was there before is let go
)

// State is how far a step is.
type State string

// States of a step.
const (
	StateRunning State = "running"
	StateOK      State = "ok"      // it was right already
	StateChanged State = "changed" // it is right now
	StateFailed  State = "failed"
	StateUndone  State = "undone" // rolled back
)

// Message types from the host.
const (
	TypeStep   = "step"   // Step, State, Detail, Error
	TypeKey    = "key"    // Node, Key, Hardware: sign this
	TypeAsk    = "ask"    // for the Python packages of this platform: answer TypeOffer
	TypeNeed   = "need"   // Files of the offer, Folder: send these there, then say TypeHave
	TypeLinked = "linked" // Link, Unit: the agent has reached the controller, or is served in reverse; decide
	TypeReport = "report" // Checks
	TypeDone   = "done"   // Error, Changed, Unit, Node, Left; the last line
)

// FromHost is one line that the host's side says.
type FromHost struct {
	Type     string         `json:"type"`
	Step     string         `json:"step,omitempty"`
	State    State          `json:"state,omitempty"`
	Detail   string         `json:"detail,omitempty"`
	Error    *cluster.Error `json:"error,omitempty"`
	Node     cluster.NodeID `json:"node,omitempty"`
	Key      string         `json:"key,omitempty"` // public
	Hardware string         `json:"hardware,omitempty"`
	Files    []File         `json:"files,omitempty"`
	Folder   string         `json:"folder,omitempty"`
	Link     *Link          `json:"link,omitempty"`
	Unit     UnitKind       `json:"unit,omitempty"`
	Changed  bool           `json:"changed,omitempty"`
	// Log is the end of the agent's log, where the agent did not come up.
	Log    []string        `json:"log,omitempty"`
	Checks json.RawMessage `json:"checks,omitempty"`
	// Left says why the host was left as it is, though the order was to stop or to uninstall.
	Left string `json:"left,omitempty"`
}

// Message types to the host, after the Order. Silence is none of them: when standard input ends before Commit, the host
// goes back to what it was.
const (
	TypeCredentials = "credentials" // JWT
	TypeOffer       = "offer"       // Files that can be sent; none and a Reason where they cannot be had
	TypeHave        = "have"        // the files are there
	TypeCommit      = "commit"      // keep it
	TypeAbort       = "abort"       // undo it; Reason
)

// ToHost is one line that the operator's side says after the Order.
type ToHost struct {
	Type   string `json:"type"`
	JWT    string `json:"jwt,omitempty"`
	Files  []File `json:"files,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// LinkState is how an agent and its controller stand.
type LinkState string

// States of a link.
const (
	LinkConnecting LinkState = "connecting"
	LinkConnected  LinkState = "connected"
	// LinkDenied is macOS that lets the agent dial nobody on the local network: "no route to host", at once.
	LinkDenied  LinkState = "denied"
	LinkRefused LinkState = "refused" // the controller is there and does not believe this node
)

// Link is what an agent writes into <home>/run/link.json at each change, for whoever cannot ask it over the bus.
type Link struct {
	State   LinkState      `json:"state"`
	Node    cluster.NodeID `json:"node"`
	PID     int            `json:"pid"`
	Version string         `json:"version"` // of the agent's binary, as `mlxctl version` says it
	URL     string         `json:"url,omitempty"`
	Reverse bool           `json:"reverse,omitempty"` // the controller dialled
	Error   string         `json:"error,omitempty"`
	At      time.Time      `json:"at"`
}

// Finding is what one check found: of a host before an installation, or of a node by `mlxctl doctor`. One line, and what
// to do.
type Finding struct {
	Check   string      `json:"check"` // lower-kebab-case
	State   FindingKind `json:"state"`
	Message string      `json:"message"`       // what and where
	Fix     string      `json:"fix,omitempty"` // a command to paste, or a setting and where it is
}

// FindingKind sorts findings.
type FindingKind string

// Kinds of findings.
const (
	FindingOK   FindingKind = "ok"
	FindingWarn FindingKind = "warn" // it serves, but not as well as it could
	FindingFail FindingKind = "fail" // it does not serve because of this
	FindingSkip FindingKind = "skip" // could not be looked at; Message says why
)
