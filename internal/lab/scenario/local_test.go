package scenario_test

import "testing"

// One host alone serves, with a real model, without any way to the internet; and is as it was afterwards.
func TestClusterOfOneHost(t *testing.T) {
	t.Parallel()
	s := newSite(t, 0, nil)
	s.must(done, "up", "--local")
	if r := s.must(done, "run", "tiny", "-n", prompt); r.out != answer {
		t.Errorf("it answers %q", r.out)
	}
	s.must(done, "down")
	if pids := s.Operator.PIDs("mlxctl"); len(pids) > 0 {
		t.Errorf("still running: %v", pids)
	}
}
