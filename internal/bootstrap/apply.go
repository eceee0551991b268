package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

// Job is what Apply has done on a host, and how what only the operator's side can do is done.
type Job struct {
	// Order is sent to the host. An empty Home means .mlxctl in the user's home there; Version is filled in.
	Order plan.Order
	// Binary returns the binary for a platform, and the folder below versions that it goes to.
	Binary func(os, arch string) (path, versionID string, err error)
	// Sign signs the key that was made on the host. It is asked at most once.
	Sign func(ctx context.Context, node cluster.NodeID, key, hardware string) (jwt string, err error)
	// Prove says whether the node really serves; nil means that its link is enough. Only what it agrees to is kept.
	Prove func(ctx context.Context, node cluster.NodeID, versionID string, link plan.Link) error
	// Wheels returns the Python packages for a host that cannot fetch them itself; nil where there are none to send. It is
	// asked only when the host wants them, and may take as long as fetching them takes.
	Wheels func(ctx context.Context, os, arch, pyversion string) (dir string, files []plan.File, err error)
}

// Event is one step of one host.
type Event struct {
	Host   string // Label of the target
	Step   string // plan.StepCopy and so on
	State  plan.State
	Detail string
	Err    error
	At     time.Time
	Took   time.Duration // since the step's first event; zero for that
}

// Result is what came of an order.
type Result struct {
	Node      cluster.NodeID
	Key       string // public
	Hardware  string // hashed
	Unit      plan.UnitKind
	Changed   bool // something on the host was not as it is now
	Link      *plan.Link
	VersionID string
	Home      string
	Log       []string // the end of the agent's log, where it did not come up
	Findings  []plan.Finding
	// Left says why the host was left as it is, though it was to be stopped or uninstalled: it is another node than the one
	// that the order is for, or of another cluster.
	Left string
}

// Apply has a host do an order: an installation copies the binary first. What happens is told through tell, in order and
// from this goroutine. When it fails or ctx ends before the host was told to commit, the host goes back to what it was.
func (b *Bootstrap) Apply(ctx context.Context, h *Host, job Job, tell func(Event)) (Result, error) {
	a := &apply{b: b, h: h, job: job, tell: tell, began: map[string]time.Time{}}
	if a.tell == nil {
		a.tell = func(Event) {}
	}
	if h.Failure() != nil || h.Key.State == KeyNew || h.Key.State == KeyChanged {
		return a.result, cluster.Errorf(cluster.CodeConflict, "%s is not ready for this", h.Label()).WithHint("probe it, and mend what is found")
	}
	if job.Order.Home == "" {
		a.job.Order.Home = h.Facts.Home
	}
	if home := a.job.Order.Home; !path.IsAbs(home) || path.Clean(home) != home || home == "/" {
		return a.result, cluster.Errorf(cluster.CodeInvalid, "%q is no home for the node on %s", untrusted.Line(home, mostDetail), h.Label())
	}
	a.result.Home = a.job.Order.Home
	if a.result.Home == h.Facts.Home { // which the facts are of; a host's side of an earlier version does not look itself
		if err := a.job.Order.Refuses(h.Facts.Owner); err != nil {
			return a.result, err
		}
		if a.result.Left = a.job.Order.Spares(h.Facts.Owner); a.result.Left != "" {
			return a.result, nil
		}
	}
	var err error
	if a.session, err = b.reach(ctx, h); err != nil {
		return a.result, err
	}
	binary, err := a.binary(ctx)
	if err != nil || binary == "" {
		return a.result, err
	}
	a.job.Order.CanSend = job.Wheels != nil
	err = a.talk(ctx, binary)
	return a.result, err
}

// Check has the agent's binary on a host look at itself. Nothing is changed or copied.
func (b *Bootstrap) Check(ctx context.Context, h *Host, order plan.Order) ([]plan.Finding, error) {
	order.Action = plan.Check
	r, err := b.Apply(ctx, h, Job{Order: order}, nil)
	if err == nil && r.VersionID == "" {
		return []plan.Finding{{Check: "installed", State: plan.FindingSkip, Message: "nothing is installed on " + h.Label(), Fix: "mlxctl up"}}, nil
	}
	return r.Findings, err
}

// apply is one order on one host.
type apply struct {
	b       *Bootstrap
	h       *Host
	job     Job
	tell    func(Event)
	session session
	began   map[string]time.Time
	result  Result

	wheels  string      // folder here of what was offered
	offered []plan.File // the host was told of
	signed  bool
	// committed says that the host was told to keep everything.
	committed bool
	// failure is why we told the host to undo everything.
	failure error
}

func (a *apply) event(step string, state plan.State, detail string, err error) {
	now := time.Now()
	e := Event{Host: a.h.Label(), Step: step, State: state, Detail: detail, Err: err, At: now}
	if began, ok := a.began[step]; ok {
		e.Took = now.Sub(began)
	} else if len(a.began) < mostSteps {
		a.began[step] = now
	}
	a.tell(e)
}

// binary returns the path there of the binary that is to run the host's side; "" where there is nothing to do.
func (a *apply) binary(ctx context.Context) (string, error) {
	versions := path.Join(a.job.Order.Home, "versions")
	installed := a.h.Facts.Installed
	if a.job.Order.Action != plan.Install && installed != "" {
		a.result.VersionID = installed
		a.job.Order.Version = installed
		return path.Join(versions, installed, "mlxctl"), nil
	}
	if a.job.Binary == nil || a.job.Order.Action == plan.Check {
		return "", nil
	}
	a.event(plan.StepCopy, plan.StateRunning, "", nil)
	there, changed, err := a.copy(ctx, versions)
	if err != nil {
		a.event(plan.StepCopy, plan.StateFailed, "", err)
		return "", err
	}
	state := plan.StateOK
	if changed {
		state, a.result.Changed = plan.StateChanged, true
	}
	a.event(plan.StepCopy, state, a.job.Order.Version, nil)
	return there, nil
}

func (a *apply) copy(ctx context.Context, versions string) (there string, changed bool, err error) {
	here, id, err := a.job.Binary(a.h.Facts.OS, a.h.Facts.Arch)
	if err != nil {
		return "", false, err
	}
	if !versionID.MatchString(id) {
		return "", false, cluster.Errorf(cluster.CodeInternal, "%q cannot name a version", id)
	}
	a.job.Order.Version, a.result.VersionID = id, id
	sum, size, err := digest(here)
	if err != nil {
		return "", false, cluster.Errorf(cluster.CodeInternal, "read binary: %v", err)
	}
	there = path.Join(versions, id, "mlxctl")
	ctx, cancel := context.WithTimeout(ctx, copyWait)
	defer cancel()
	changed, err = put(ctx, a.session, blob{
		Path: there, SHA256: sum, Bytes: size, Mode: "755", Open: func() (io.ReadCloser, error) { return os.Open(here) },
	})
	return there, changed, err
}

// report reads what the host's side found.
func report(raw json.RawMessage) []plan.Finding {
	const mostFindings = 100
	var found []plan.Finding
	if err := json.Unmarshal(raw, &found); err != nil {
		return nil
	}
	found = found[:min(len(found), mostFindings)]
	for i, f := range found {
		found[i] = plan.Finding{
			Check: untrusted.Line(f.Check, mostName), State: plan.FindingKind(untrusted.Line(string(f.State), mostName)),
			Message: untrusted.Line(f.Message, mostDetail), Fix: untrusted.Line(f.Fix, mostDetail),
		}
	}
	return found
}

// errOver ends a conversation that is over.
var errOver = errors.New("over")
