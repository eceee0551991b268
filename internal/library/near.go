package library

import (
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// unknown is the error for a name that no place has, with names that may have been meant.
func (l *Library) unknown(name string) error {
	e := cluster.Errorf(cluster.CodeNoModel, "there is no model %s on this machine", name)
	if near := cluster.Nearest(name, append(l.hubNames(), Tiny)); len(near) > 0 {
		return e.WithHint("did you mean %s?", strings.Join(near, " or "))
	}
	if strings.Contains(name, "/") {
		return e.WithHint("`hf download %s` puts it into the Hugging Face cache", name)
	}
	return e.WithHint("`mlxctl models` lists what is there")
}
