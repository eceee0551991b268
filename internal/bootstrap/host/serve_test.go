package host

import (
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// slowEnd is a conversation whose reads take a while to end.
type slowEnd struct {
	*io.PipeReader
	reading atomic.Int32
}

func (s *slowEnd) Read(p []byte) (int, error) {
	s.reading.Add(1)
	defer s.reading.Add(-1)
	n, err := s.PipeReader.Read(p)
	if err != nil {
		<-time.After(200 * time.Millisecond)
	}
	return n, err
}

func TestNobodyListensAfterServe(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	in := &slowEnd{}
	order := n.order(n.binary("crash"))
	order.Gate = 100 * time.Millisecond
	out := n.run(operator{user: "k"}, order, func(o *Options) {
		in.PipeReader = o.In.(*io.PipeReader)
		o.In = in
	})
	if reading := in.reading.Load(); out.done.Error == nil || reading != 0 {
		t.Errorf("got %+v; %d reads go on", out.done, reading)
	}
}

func TestHangUp(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.ReadAll(r)
	}()
	if !hangUp(r) {
		t.Error("a pipe cannot be hung up")
	}
	<-ended
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if hangUp(file) || hangUp(io.MultiReader()) {
		t.Error("what cannot be interrupted is waited for")
	}
}

// What is not on the disk whole is not made the current version.
func TestABinaryThatChangedIsNotMadeCurrent(t *testing.T) {
	t.Parallel()
	n := newNode(t, plan.UnitKeeper)
	v1, v2 := n.binary("v1"), n.binary("v2")
	n.installed(v1)
	n.await(v1)
	out := n.run(operator{user: "k"}, n.order(v2), func(o *Options) {
		o.at = func(point string) {
			if point != "settings" {
				return
			}
			path := filepath.Join(n.home, "versions", v2, "mlxctl")
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(path, nil, 0o700); err != nil {
				t.Error(err)
			}
		}
	})
	if out.done.Error == nil || out.last(plan.StepUnit) != plan.StateUndone {
		t.Errorf("got %+v", out.done)
	}
	n.await(v1)
}
