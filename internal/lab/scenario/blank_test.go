package scenario_test

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/lab"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
	"github.com/mlxctl/mlxctl/mlxbridge/worker"
)

// A host that has nothing but an interpreter, and no way to any package index, gets its packages from the operator.
func TestUpBringsPythonToABlankHost(t *testing.T) {
	s := newSite(t, 1, func(i int, s *lab.Spec) { s.Blank = i == 0 })
	h := s.Hosts[0]
	s.bringWheels(h)
	began := time.Now()
	s.up(done)
	t.Logf("up of a blank host took %v", time.Since(began).Round(time.Second))
	s.serve(h)
	if r := s.on(h, "sh", "-c", "find .mlxctl/cache/python -mindepth 2 -maxdepth 2 -name mlxctl.json"); r.out == "" {
		t.Error("it has no Python environment of its own")
	}
	if r := s.up(done); !strings.Contains(r.out+r.err, "0 changed") {
		t.Errorf("second up says %q %q", r.out, r.err)
	}
}

// bringWheels fetches the packages for a host on this machine, which has a package index, and puts them where the
// operator's mlxctl has those that it fetched.
func (s *site) bringWheels(h *lab.Host) {
	s.t.Helper()
	newest := s.on(h, "sh", "-c", `for p in python3.13 python3.12 python3.11; do command -v $p && exit; done`)
	_, python, ok := strings.Cut(filepath.Base(newest.out), "python")
	if !ok {
		s.t.Fatalf("%s has no interpreter: %q", h.Name, newest.out)
	}
	interpreter, err := enginetest.Environment(s.t).Base(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	dir, _, err := bootstrap.Wheelhouse(s.t.Context(), enginetest.CacheDir(s.t), bootstrap.WheelsFor{
		Lock: worker.Requirements, OS: runtime.GOOS, Arch: runtime.GOARCH, Python: python, Interpreter: interpreter,
		Progress: func(line string) { s.t.Log(line) },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.Operator.PutFolder(s.t.Context(), dir, ".cache/mlxctl/wheels/"+filepath.Base(dir)); err != nil {
		s.t.Fatal(err)
	}
}
