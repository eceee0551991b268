package scenario_test

import (
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// The released binary runs on a blank host that it was copied to over SSH.
func TestBinaryRunsOnBlankHosts(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Hosts: 2, Binary: binary})
	for _, h := range l.Hosts {
		copied := "cat /usr/local/bin/mlxctl | ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR " +
			h.IP().String() + " 'cat >mlxctl && chmod 755 mlxctl'"
		if _, err := l.Operator.Exec(t.Context(), l.Operator.User, "bash", "-o", "pipefail", "-c", copied); err != nil {
			t.Fatal(err)
		}
		if said := ssh(t, l, h, "./mlxctl version"); !strings.Contains(said, version) {
			t.Errorf("%s says %q, want %s in it", h.Name, said, version)
		}
	}
}
