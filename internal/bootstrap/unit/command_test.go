package unit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// The password is where it belongs, and nowhere else.
func TestPasswordIsInNoArgument(t *testing.T) {
	calls := fakes(t, map[string]string{"sudo": sudo + "\n"})
	s := Spec{Home: "/h", User: "ann", UserHome: "/u", Password: "s3 cr'et"}.AsUser()
	out, err := s.rootOutput(t.Context(), "env")
	if err != nil || strings.Contains(out, s.Password) || strings.Contains(strings.Join(calls(), "\n"), s.Password) {
		t.Errorf("got %q, %v", out, err)
	}
	if err := put(func(stdin string, args ...string) error {
		_, err := s.rootWith(t.Context(), stdin, args...)
		return err
	}, filepath.Join(t.TempDir(), "unit"), "0644", "", []byte("text")); err != nil || strings.Contains(strings.Join(calls(), "\n"), s.Password) {
		t.Errorf("a file: %v", err)
	}
	s.Password = "wrong"
	if err := s.mayRoot(t.Context()); cluster.CodeOf(err) != cluster.CodeUnauthorized || strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v", err)
	}
}

// What the superuser writes is what this process holds: nobody can put another text in between, and no password gets into
// it, whether sudo reads it or not.
func TestTheSuperuserIsGivenTheText(t *testing.T) {
	for name, script := range map[string]string{
		"reads the password": sudo,
		"wants none":         `while test "$1" != --; do test "$1" = -v && exit 0; shift; done; shift; exec "$@"`,
	} {
		fakes(t, map[string]string{"sudo": script, "launchctl": launchctl, "chown": ""})
		home, _ := scripted(t, t.TempDir())
		for _, kind := range []plan.UnitKind{plan.UnitLaunchDaemon, plan.UnitRunit} {
			s := Spec{Home: home, User: "ann", UID: 501, UserHome: filepath.Dir(home), Password: "s3 cr'et", ServiceDir: t.TempDir()}.OnMacOS(t.TempDir())
			d, err := Open(kind, s)
			if err != nil {
				t.Fatal(err)
			}
			if r, ok := d.(*runit); ok {
				r.asRoot = true
			}
			text := []byte("one\n" + textFollows + "\ntwo\\n\nno end")
			for range 2 { // the second replaces the first
				if err := d.Install(t.Context(), text); err != nil {
					t.Fatalf("%s, %s: %v", name, kind, err)
				}
				if got, err := d.Installed(); err != nil || string(got) != string(text) {
					t.Errorf("%s, %s: installed %q, %v", name, kind, got, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(home, "run", "*")); len(left) > 0 {
				t.Errorf("%s, %s: the user's folder holds %v", name, kind, left)
			}
		}
	}
}

// A file that does not come whole does not take the place of the one that is there.
func TestAPartOfATextIsNotInstalled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "unit")
	cut := 0
	run := func(stdin string, args ...string) error {
		_, err := command(t.Context(), stdin[:len(stdin)-cut], args...)
		return err
	}
	if err := put(run, path, "0644", "", []byte("first")); err != nil {
		t.Fatal(err)
	}
	cut = 2
	if err := put(run, path, "0644", "", []byte("second")); err == nil {
		t.Error("no error")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "first" {
		t.Errorf("got %q, %v", got, err)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A wrong password is one failed login, whatever it was wanted for.
func TestAWrongPasswordIsTriedOnce(t *testing.T) {
	calls := fakes(t, map[string]string{"sudo": sudo, "launchctl": launchctl})
	s := Spec{Home: t.TempDir(), User: "ann", UID: 501, UserHome: t.TempDir(), Password: "wrong", Sudo: new(Sudo)}.OnMacOS(t.TempDir())
	for range 2 {
		d, err := Open(plan.UnitLaunchDaemon, s)
		if err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"available": Available(t.Context(), d), "install": d.Install(t.Context(), []byte("x")), "start": d.Start(t.Context()),
		} {
			if cluster.CodeOf(err) != cluster.CodeUnauthorized {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if got := without(calls(), "launchctl"); !slices.Equal(got, []string{"sudo -S -p  -v"}) {
		t.Errorf("got %q", got)
	}
}
