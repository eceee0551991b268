package host

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func kinds() []plan.UnitKind { return []plan.UnitKind{plan.UnitRunit, plan.UnitKeeper} }

func TestALife(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, kind)
			v1 := n.binary("v1")
			first := n.installed(v1)
			if !first.done.Changed || first.done.Unit != kind || first.done.Node != "node-of-tests" || first.linked.State != plan.LinkConnected {
				t.Errorf("first: %+v, %+v", first.done, first.linked)
			}
			got, pid := n.runs()
			if got != v1 {
				s, err := n.driver().Status(t.Context())
				log, _ := os.ReadFile(filepath.Join(n.home, "log", "agent.log"))
				t.Fatalf("%q runs, want %q: %+v %v, %s", got, v1, s, err, log)
			}
			before := n.files()
			second := n.installed(v1)
			if _, again := n.runs(); second.done.Changed || again != pid || !maps.Equal(n.files(), before) {
				t.Errorf("second: %+v, pid %d, was %d; %v", second.done, again, pid, n.files())
			}
			for _, m := range second.all {
				if m.State == plan.StateChanged {
					t.Errorf("second: %+v", m)
				}
			}
			if out := n.run(operator{user: "other"}, n.order(v1), nil); out.last(plan.StepJoin) != plan.StateChanged || out.done.Error != nil {
				t.Errorf("another signature: %+v", out.done)
			}
			v2 := n.binary("v2")
			if out := n.installed(v2); !out.done.Changed || out.linked.Version != "v2" {
				t.Errorf("upgrade: %+v", out.done)
			}
			n.await(v2)
			stop := plan.Order{Action: plan.Stop, Home: n.home, Version: v2}
			if out := n.run(operator{}, stop, nil); out.done.Error != nil || !out.done.Changed {
				t.Errorf("stop: %+v", out.done)
			}
			n.await("")
			if out := n.run(operator{}, stop, nil); out.done.Error != nil || out.done.Changed {
				t.Errorf("second stop: %+v", out.done)
			}
			n.installed(v2)
			n.await(v2)
			purge := plan.Order{Action: plan.Uninstall, Home: n.home, Version: v2, Purge: true}
			if out := n.run(operator{}, purge, nil); out.done.Error != nil || !out.done.Changed {
				t.Errorf("purge: %+v", out.done)
			}
			if _, err := os.Stat(n.home); err == nil {
				t.Errorf("the home is left")
			}
			if left, _ := filepath.Glob(filepath.Join(n.services, "*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// What does not come up, is not agreed to, or is left alone, leaves the node as it was.
func TestGoesBack(t *testing.T) {
	t.Parallel()
	script := []byte("#!/bin/sh\necho 'cannot: \x1b[31mno such library' >&2\nexit 3\n")
	for _, c := range []struct {
		name    string
		version string
		linked  string
		code    cluster.Code
		says    string
		logs    string
	}{
		{name: "a version that ends", version: "crash", code: cluster.CodeInternal, says: "times, and wrote last: boom: ", logs: "boom:"},
		{name: "a script", version: "script", code: cluster.CodeInternal, says: "times, and wrote last: cannot: ", logs: "no such library"},
		{name: "no controller", version: "mute", code: cluster.CodeUnreachable, says: "cannot reach the bus"},
		{name: "not believed", version: "refused", code: cluster.CodeUnauthorized, says: "who are you?"},
		{name: "called off", version: "v2", linked: "no answer came", code: cluster.CodeCancelled, says: "no answer came", logs: "here is v2"},
		{name: "operator gone", version: "v2", linked: "gone", code: cluster.CodeCancelled, says: "went away"},
		{name: "operator silent", version: "v2", linked: "silent", code: cluster.CodeTimeout, says: "did not say"},
	} {
		for _, blank := range []bool{true, false} {
			t.Run(c.name+map[bool]string{true: ", blank"}[blank], func(t *testing.T) {
				t.Parallel()
				kind := plan.UnitKeeper
				if c.version == "script" { // which is no keeper either
					kind = plan.UnitRunit
				}
				n := newNode(t, kind)
				v1 := ""
				if !blank {
					v1 = n.binary("v1")
					n.installed(v1)
				}
				before := n.files()
				var next string
				if c.version == "script" {
					next = n.put("script", script)
				} else {
					next = n.binary(c.version)
				}
				order := n.order(next)
				order.Settings.LogLevel = "debug"
				switch {
				case c.code == cluster.CodeInternal:
					order.Gate = 10 * time.Minute // longer than the test may take: nothing waits for it
				case c.linked == "": // it never gets as far as to be agreed to
					order.Gate = 5 * time.Second
				}
				out := n.run(operator{user: "other", linked: c.linked}, order, func(o *Options) {
					if c.linked == "silent" {
						o.decide = 3 * time.Second
					}
				})
				e := out.done.Error
				if e == nil || e.Code != c.code || !strings.Contains(e.Message, c.says) || out.done.Changed {
					t.Errorf("done: %+v, %+v", out.done, e)
				}
				if text := strings.Join(out.done.Log, "\n"); !strings.Contains(text, c.logs) || strings.Contains(text, "\x1b") {
					t.Errorf("log: %q", text)
				}
				if out.last(plan.StepUnit) != plan.StateUndone {
					t.Errorf("unit: %q", out.last(plan.StepUnit))
				}
				if after := n.files(); !maps.Equal(before, after) {
					t.Errorf("before %v\nafter %v", before, after)
				}
				n.await(v1)
				if left := n.processes(); blank && len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

func TestDeniedIsServedInReverse(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v := n.binary("denied")
	out := n.installed(v)
	if out.linked == nil || !out.linked.Reverse {
		t.Errorf("linked: %+v", out.linked)
	}
	_, pid := n.runs()
	again := n.installed(v)
	if _, now := n.runs(); again.done.Changed || now != pid || !again.linked.Reverse {
		t.Errorf("second: %+v, pid %d, was %d", again.done, now, pid)
	}
}

func TestRepairsWhatDoesNotRun(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v := n.binary("v1")
	n.installed(v)
	for name, harm := range map[string]func() error{
		"stopped":     func() error { return n.driver().Stop(t.Context()) },
		"no settings": func() error { return os.Remove(filepath.Join(n.home, "node.json")) },
		"no link":     func() error { return os.Remove(filepath.Join(n.home, "current")) },
		"no creds":    func() error { return os.Remove(filepath.Join(n.home, "agent", "node.creds")) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if out := n.installed(v); !out.done.Changed {
			t.Errorf("%s: nothing was changed", name)
		}
		n.await(v)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v1, v2 := n.binary("v1"), n.binary("v2")
	other := filepath.Join(n.home, "versions", v2, "mlxctl")
	for name, c := range map[string]struct {
		change func(*plan.Order)
		exe    string
		code   cluster.Code
	}{
		"another binary": {func(*plan.Order) {}, other, cluster.CodeConflict},
		"no version":     {func(o *plan.Order) { o.Version = "" }, other, cluster.CodeInvalid},
		"a path":         {func(o *plan.Order) { o.Version = "../../x-0123456789ab" }, other, cluster.CodeInvalid},
		"root":           {func(o *plan.Order) { o.Home = "/" }, "", cluster.CodeInvalid},
		"relative":       {func(o *plan.Order) { o.Home = "x" }, "", cluster.CodeInvalid},
		"no action":      {func(o *plan.Order) { o.Action = "dance" }, "", cluster.CodeInvalid},
	} {
		order := n.order(v1)
		c.change(&order)
		out := n.run(operator{user: "k"}, order, func(o *Options) {
			if c.exe != "" {
				o.Exe = c.exe
			}
		})
		if e := out.done.Error; e == nil || e.Code != c.code {
			t.Errorf("%s: %+v", name, e)
		}
	}
	current := filepath.Join(n.home, "current")
	if err := os.MkdirAll(filepath.Join(current, "mine"), 0o700); err != nil {
		t.Fatal(err)
	}
	e := n.run(operator{user: "k"}, n.order(v1), nil).done.Error
	if e == nil || e.Message != current+" is a folder, and should be a link to a version" || e.Hint != "there: mv "+current+" "+current+".old" {
		t.Errorf("a folder in place of the link: %+v", e)
	}
	if got := n.files(); len(got) != 1 || got["current"] != "" {
		t.Errorf("something was installed: %v", got)
	}
}

func TestASecondOperatorIsToldOfTheFirst(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v := n.binary("v1")
	n.run(operator{user: "k"}, n.order(v), func(o *Options) {
		o.at = func(point string) {
			if point != "linked" {
				return
			}
			order := n.order(v)
			order.Operator = "bob"
			out := n.run(operator{user: "k"}, order, nil)
			if e := out.done.Error; e == nil || e.Code != cluster.CodeConflict || !strings.Contains(e.Message, "anna@studio pid 4711") {
				t.Errorf("second: %+v", e)
			}
		}
	})
	n.await(v)
}

func TestVersionsArePruned(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	var all []string
	for i, name := range []string{"v1", "v2", "v3", "v4", "v5"} {
		id := n.binary(name)
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(n.home, "versions", id), at, at); err != nil {
			t.Fatal(err)
		}
		all = append(all, id)
	}
	foreign := filepath.Join(n.home, "versions", "mine")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	n.installed(all[0]) // the oldest
	entries, err := os.ReadDir(filepath.Join(n.home, "versions"))
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := []string{all[0], all[3], all[4], "mine"}
	slices.Sort(left)
	slices.Sort(want)
	if !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
}

func TestPurgeLeavesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v := n.binary("v1")
	n.installed(v)
	mine := filepath.Join(n.home, "thesis.txt")
	if err := os.WriteFile(mine, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := n.run(operator{}, plan.Order{Action: plan.Uninstall, Home: n.home, Version: v, Purge: true}, nil); out.done.Error != nil {
		t.Errorf("purge: %+v", out.done.Error)
	}
	entries, err := os.ReadDir(n.home)
	if err != nil || len(entries) != 1 || entries[0].Name() != "thesis.txt" {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestPackagesAreSentWhereTheyCannotBeFetched(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v := n.binary("v1")
	order := n.order(v)
	sum, err := hashFile(filepath.Join(n.home, "versions", v, "mlxctl"))
	if err != nil {
		t.Fatal(err)
	}
	order.CanSend = true
	offer := []plan.File{{Name: "a-1-py3-none-any.whl", SHA256: sum}}
	copyOf := func(from string) func(plan.FromHost) {
		return func(m plan.FromHost) {
			data, err := os.ReadFile(filepath.Join(n.home, "versions", from, "mlxctl"))
			if err == nil {
				err = os.WriteFile(filepath.Join(m.Folder, m.Files[0].Name), data, 0o600)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	var wheels []string
	python := func(o *Options) {
		o.Python = func(_ context.Context, r PythonRequest) (bool, error) {
			if r.Wheels == "" {
				return false, errors.New("no network")
			}
			files, err := os.ReadDir(r.Wheels)
			if err == nil && len(files) == 1 && r.Offline {
				wheels = append(wheels, files[0].Name())
			}
			return true, err
		}
	}
	bad := n.run(operator{user: "k", offer: offer, send: copyOf(n.binary("v2"))}, order, python)
	if e := bad.done.Error; e == nil || !strings.Contains(e.Message, "did not come as they should") || len(wheels) > 0 {
		t.Errorf("another file: %+v, used %v", e, wheels)
	}
	good := n.run(operator{user: "k", offer: offer, send: copyOf(v)}, order, python)
	if good.done.Error != nil || !slices.Equal(wheels, []string{offer[0].Name}) {
		t.Errorf("sent: %+v, used %v", good.done.Error, wheels)
	}
	evil := []plan.File{{Name: "../../evil.whl", SHA256: sum}}
	if e := n.run(operator{user: "k", offer: evil}, order, python).done.Error; e == nil || e.Code != cluster.CodeInvalid {
		t.Errorf("a path: %+v", e)
	}
	if e := n.run(operator{user: "k"}, order, python).done.Error; e == nil || !strings.Contains(e.Message, "no network") || !strings.Contains(e.Message, "none here") {
		t.Errorf("none offered: %+v", e)
	}
}

// A unit that cannot be changed this time, as without sudo, is left alone, and nothing lesser takes its place.
func TestAUnitOutOfReachIsKept(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitRunit)
	v1, v2 := n.binary("v1"), n.binary("v2")
	n.installed(v1)
	before := n.files()
	_, pid := n.runs()
	n.kind = ""
	if err := os.Rename(n.services, n.services+".away"); err != nil {
		t.Fatal(err)
	}
	e := n.run(operator{user: "k"}, n.order(v2), nil).done.Error
	if err := os.Rename(n.services+".away", n.services); err != nil {
		t.Fatal(err)
	}
	if e == nil || e.Code != cluster.CodeUnauthorized || !strings.Contains(e.Hint, "sudo") {
		t.Errorf("got %+v", e)
	}
	if got, now := n.runs(); got != v1 || now != pid || !maps.Equal(before, n.files()) {
		t.Errorf("%q runs with pid %d, was %d; %v", got, now, pid, n.files())
	}
	n.installed(v2)
	n.await(v2)
}
