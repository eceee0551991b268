package gateway

import (
	"net/http"
	"slices"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/openai"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

func (g *Gateway) listModels(d openai.Dialect) func(v *visit) {
	return func(v *visit) { v.reply(http.StatusOK, d.AppendModels(nil, g.o.Backend.Models())) }
}

func (g *Gateway) showModel(d openai.Dialect) func(v *visit) {
	return func(v *visit) {
		models := g.o.Backend.Models()
		i := slices.IndexFunc(models, func(m cluster.Model) bool { return m.Name == v.rest })
		if i < 0 {
			v.fail(cluster.Errorf(cluster.CodeNoModel, "no node has a model named %q", v.rest).
				WithHint("`mlxctl models` lists those there are"))
			return
		}
		v.reply(http.StatusOK, d.AppendModel(nil, &models[i]))
	}
}

// health tells load balancers whether a request would find a node. It needs no key, and so tells no names.
func (g *Gateway) health(v *visit) {
	ready, all := 0, 0
	if s := g.o.Backend.Snapshot(); s != nil {
		all = len(s.Nodes)
		for i := range s.Nodes {
			if s.Nodes[i].State == cluster.NodeReady {
				ready++
			}
		}
	}
	status, word := http.StatusOK, "ok"
	if ready == 0 {
		status, word = http.StatusServiceUnavailable, "no_node"
	}
	body := append([]byte(`{"status":"`), word...)
	body = append(body, `","nodes_ready":`...)
	body = wire.AppendInt(body, ready)
	body = append(body, `,"nodes":`...)
	body = wire.AppendInt(body, all)
	body = append(body, `,"version":`...)
	body = wire.AppendString(body, g.o.Version)
	v.w.Header().Set("Cache-Control", "no-store")
	v.reply(status, append(body, "}\n"...))
}
