package host

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/unit"
)

// node is a home to install in, with a runsvdir of its own.
type node struct {
	t        *testing.T
	home     string
	services string
	kind     plan.UnitKind
}

func newNode(t *testing.T, kind plan.UnitKind) *node {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: which version a process runs is read from /proc")
	}
	n := &node{t: t, home: filepath.Join(t.TempDir(), "home"), services: t.TempDir(), kind: kind}
	if kind == plan.UnitRunit {
		n.runsvdir()
	}
	t.Cleanup(n.end)
	return n
}

func (n *node) runsvdir() {
	n.t.Helper()
	if _, err := exec.LookPath("runsvdir"); err != nil {
		n.t.Skip("SKIPPED: no runit here: apt-get install runit")
	}
	cmd := exec.Command("runsvdir", "-P", n.services)
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGHUP) // it ends its services, too
		_ = cmd.Wait()
	})
}

// end takes the unit away, and makes sure that nothing is left.
func (n *node) end() {
	if d := n.driver(); d != nil {
		if err := d.Remove(context.Background()); err != nil {
			n.t.Error(err)
		}
	}
	if left := n.processes(); len(left) > 0 {
		n.t.Errorf("left: %v", left)
	}
}

// driver is nil where no unit is installed.
func (n *node) driver() unit.Driver {
	data, err := os.ReadFile(filepath.Join(n.home, "unit.json"))
	var r unitRecord
	if err != nil || json.Unmarshal(data, &r) != nil {
		return nil
	}
	d, err := unit.Open(r.Kind, unit.Spec{Home: n.home, ServiceDir: r.ServiceDir})
	if err != nil {
		n.t.Fatal(err)
	}
	return d
}

// processes lists those that run out of this home.
func (n *node) processes() []string {
	var out []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, e := range entries {
		exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err == nil && strings.HasPrefix(exe, n.home+"/") {
			out = append(out, e.Name()+" "+filepath.Base(filepath.Dir(exe)))
		}
	}
	return out
}

// binary makes a version of the program: this one, with another hash.
func (n *node) binary(version string) string {
	n.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.put(version, append(data, version...))
}

func (n *node) put(version string, data []byte) string {
	n.t.Helper()
	tmp := filepath.Join(n.t.TempDir(), "mlxctl")
	if err := os.WriteFile(tmp, data, 0o755); err != nil {
		n.t.Fatal(err)
	}
	sum, err := hashFile(tmp)
	if err != nil {
		n.t.Fatal(err)
	}
	id := version + "-" + sum[:idDigits]
	dir := filepath.Join(n.home, "versions", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	there := filepath.Join(dir, "mlxctl")
	if _, err := os.Stat(there); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(tmp, there); err != nil {
			if err = os.WriteFile(there, data, 0o755); err != nil {
				n.t.Fatal(err)
			}
		}
	}
	return id
}

func (n *node) order(version string) plan.Order {
	return plan.Order{
		Action: plan.Install, Operator: "anna@studio pid 4711", Home: n.home, Version: version, Unit: n.kind, Gate: patience,
		Settings: plan.Settings{Cluster: "lab", ClusterID: "c1", ServerName: "ctl.c1.mlxctl", URLs: []string{"tls://10.0.0.1:8660"}, CA: "PEM"},
	}
}

// operator is the other side of the conversation.
type operator struct {
	user string // whom the token is for
	// linked answers TypeLinked; empty means commit, "gone" goes away, "silent" says nothing.
	linked string
	offer  []plan.File           // to TypeAsk
	send   func(m plan.FromHost) // of TypeNeed
}

// token is what an operator signs; each is made at another moment.
func token(user string) string {
	claims := fmt.Sprintf(`{"sub":%q,"iat":%d,"jti":"%d"}`, user, time.Now().UnixNano(), time.Now().UnixNano())
	return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s"
}

// outcome is all that the host's side said.
type outcome struct {
	all    []plan.FromHost
	done   *plan.FromHost // nil where it ended without
	linked *plan.Link
}

// last is the last state of a step.
func (o outcome) last(step string) plan.State {
	var s plan.State
	for _, m := range o.all {
		if m.Type == plan.TypeStep && m.Step == step {
			s = m.State
		}
	}
	return s
}

func (p operator) converse(t *testing.T, order plan.Order, from io.Reader, to io.WriteCloser) outcome {
	t.Helper()
	out := json.NewEncoder(to)
	_ = out.Encode(order) // who does not listen says so by its end
	var o outcome
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		var m plan.FromHost
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Errorf("line %q: %v", lines.Text(), err)
		}
		o.all = append(o.all, m)
		switch m.Type {
		case plan.TypeKey:
			_ = out.Encode(plan.ToHost{Type: plan.TypeCredentials, JWT: token(p.user)})
		case plan.TypeAsk:
			_ = out.Encode(plan.ToHost{Type: plan.TypeOffer, Files: p.offer, Reason: "none here"})
		case plan.TypeNeed:
			p.send(m)
			_ = out.Encode(plan.ToHost{Type: plan.TypeHave})
		case plan.TypeLinked:
			o.linked = m.Link
			switch p.linked {
			case "":
				_ = out.Encode(plan.ToHost{Type: plan.TypeCommit})
			case "gone":
				_ = to.Close()
			case "silent":
			default:
				_ = out.Encode(plan.ToHost{Type: plan.TypeAbort, Reason: p.linked})
			}
		case plan.TypeDone:
			o.done = &m
		}
	}
	_ = to.Close()
	return o
}

// run has the host's side do an order in this process.
func (n *node) run(p operator, order plan.Order, change func(*Options)) outcome {
	n.t.Helper()
	toHost, fromUs := io.Pipe()
	toUs, fromHost := io.Pipe()
	o := options(filepath.Join(n.home, "versions", order.Version, "mlxctl"), n.services)
	o.In, o.Out = toHost, fromHost
	if change != nil {
		change(&o)
	}
	ended := make(chan error, 1)
	go func() {
		err := Serve(context.Background(), o)
		_ = fromHost.Close()
		ended <- err
	}()
	out := p.converse(n.t, order, toUs, fromUs)
	if err := <-ended; err != nil {
		n.t.Error(err)
	}
	if out.done == nil {
		n.t.Fatalf("no last word: %+v", out.all)
	}
	return out
}

// installed has a version installed, and fails the test where it is not.
func (n *node) installed(version string) outcome {
	n.t.Helper()
	out := n.run(operator{user: "k"}, n.order(version), nil)
	if out.done.Error != nil {
		n.t.Fatalf("install %s: %+v\n%s", version, out.all, strings.Join(out.done.Log, "\n"))
	}
	return out
}

// runs says which version's agent runs; "" where none does.
func (n *node) runs() (version string, pid int) {
	n.t.Helper()
	d := n.driver()
	if d == nil {
		return "", 0
	}
	s, err := d.Status(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.PID))
	if !s.Running || err != nil {
		return "", 0
	}
	return filepath.Base(filepath.Dir(exe)), s.PID
}

// await waits until a version runs.
func (n *node) await(version string) {
	n.t.Helper()
	var got string
	eventually(n.t, func() bool {
		got, _ = n.runs()
		return got == version
	}, func() string {
		log, _ := os.ReadFile(filepath.Join(n.home, "log", "agent.log"))
		var s unit.Status
		if d := n.driver(); d != nil {
			s, _ = d.Status(n.t.Context())
		}
		return fmt.Sprintf("%q runs, want %q: %+v\n%s", got, version, s, log)
	})
}

// patience ends what hangs; it says nothing about how long anything may take.
const patience = time.Minute

func eventually(t *testing.T, ok func() bool, what func() string) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-late:
			t.Fatal(what())
		case <-tick.C:
		}
	}
}

// files is all that an installation puts into a home, but for what is written while things run.
func (n *node) files() map[string]string {
	n.t.Helper()
	out := map[string]string{"current": pointsTo(n.home)}
	for _, name := range []string{"node.json", "agent/node.creds", "unit.json", "install.json"} {
		data, err := os.ReadFile(filepath.Join(n.home, name))
		if err == nil {
			out[name] = string(data)
		}
	}
	return out
}
