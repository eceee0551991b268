package sched

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// helpful orders the codes of refusals: of several, the first here says most about what to do.
func helpful() []cluster.Code {
	return []cluster.Code{
		cluster.CodeBusy, cluster.CodeQuarantined, cluster.CodeConflict, cluster.CodeNoFit, cluster.CodeBadModel, cluster.CodeUnsupported,
		cluster.CodeWorkerCrashed, cluster.CodeTimeout, cluster.CodeNodeLost, cluster.CodeUnreachable,
	}
}

// explain makes one error of why no node can take a request.
func explain(s *cluster.Snapshot, r *cluster.Request, refused []cluster.Refusal, live Live) error {
	if r.Node != "" {
		i := indexNode(s, r.Node)
		if i < 0 {
			return cluster.Errorf(cluster.CodeNoNode, "no node %s", r.Node).WithHint("`mlxctl nodes` lists them")
		}
		for _, x := range refused {
			if x.Node == r.Node {
				return pinned(s, r, x, live)
			}
		}
	}
	if len(s.Nodes) == 0 {
		return cluster.Errorf(cluster.CodeNoNode, "no node has joined the cluster").WithHint("start one with `mlxctl up`")
	}
	for _, code := range helpful() {
		if of := having(refused, code); len(of) > 0 {
			return summary(s, r, code, of, live)
		}
	}
	if of := having(refused, cluster.CodeNoNode); len(of) == len(refused) || anyKnows(s, r, of, live) {
		e := cluster.Errorf(cluster.CodeNoNode, "no node is ready to answer for model %s: %s", r.Model, list(s, of))
		if name := draining(s, of); name != "" {
			return e.WithHint("`mlxctl undrain %s` has it take requests again", name)
		}
		return e.WithHint("`mlxctl nodes` shows their state")
	}
	for _, x := range refused {
		switch x.Code {
		case cluster.CodeNoModel, cluster.CodeNoNode:
		default: // what an excluded node said
			return &cluster.Error{Code: x.Code, Message: x.Reason, Node: x.Node}
		}
	}
	e := cluster.Errorf(cluster.CodeNoModel, "no node has model %s", r.Model)
	if near := cluster.Nearest(r.Model, modelNames(s)); len(near) > 0 {
		return e.WithHint("did you mean %s?", strings.Join(near, " or "))
	}
	return e.WithHint("`mlxctl models` lists what there is")
}

// draining is the name of the first node that takes nothing new because somebody wanted that; empty where there is none.
func draining(s *cluster.Snapshot, of []cluster.Refusal) string {
	for _, x := range of {
		if i := indexNode(s, x.Node); i >= 0 && s.Nodes[i].State == cluster.NodeDraining {
			return nameOf(s, x.Node)
		}
	}
	return ""
}

// modelNames lists each model of the cluster once.
func modelNames(s *cluster.Snapshot) []string {
	var names []string
	for i := range s.Nodes {
		for _, m := range s.Nodes[i].Models {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// pinned explains the refusal of the one node that a request is for.
func pinned(s *cluster.Snapshot, r *cluster.Request, x cluster.Refusal, live Live) error {
	name := nameOf(s, x.Node)
	switch x.Code {
	case cluster.CodeNoModel:
		return withNode(cluster.Errorf(x.Code, "node %s has no model %s", name, r.Model).
			WithHint("`mlxctl models` lists what there is"), x.Node)
	case cluster.CodeQuarantined, cluster.CodeConflict, cluster.CodeNoFit:
		return withNode(summary(s, r, x.Code, []cluster.Refusal{x}, live), x.Node)
	default:
		e := cluster.Errorf(x.Code, "node %s cannot answer for model %s: %s", name, r.Model, x.Reason)
		if s.Nodes[indexNode(s, x.Node)].State == cluster.NodeDraining {
			e = e.WithHint("let another node answer, or have this one take requests again: `mlxctl undrain %s`", name)
		}
		return withNode(e, x.Node)
	}
}

func withNode(e *cluster.Error, id cluster.NodeID) *cluster.Error {
	e.Node = id
	return e
}

// summary explains by the refusals of one code.
func summary(s *cluster.Snapshot, r *cluster.Request, code cluster.Code, of []cluster.Refusal, live Live) *cluster.Error {
	e := cluster.Errorf(code, "model %s: %s", r.Model, list(s, of))
	switch code {
	case cluster.CodeBusy:
		e = cluster.Errorf(code, "every node that could answer for model %s is busy: %s", r.Model, list(s, of)).
			WithHint("try again in a moment")
	case cluster.CodeQuarantined:
		e = e.WithHint("`mlxctl load %s` tries it again; `mlxctl logs` shows why it died", r.Model)
	case cluster.CodeConflict:
		e = e.WithHint("`mlxctl load MODEL` without --pin unpins a model, and `mlxctl unload MODEL` takes it out of memory")
	case cluster.CodeNoFit:
		if need, budget, node := largest(s, r, of, live); need > budget {
			e = cluster.Errorf(code, "model %s needs %s, and the largest budget is %s, on node %s", r.Model, size(need), size(budget), node)
		}
		e = e.WithHint("use a smaller or more quantised model, or a Mac with more memory")
	case cluster.CodeBadModel:
		e = cluster.Errorf(code, "no node can load %s: %s", r.Model, list(s, of))
		if len(of) == 1 {
			e = cluster.Errorf(code, "%s cannot load %s: %s", nameOf(s, of[0].Node), r.Model,
				strings.TrimPrefix(of[0].Reason, "model "+r.Model+" cannot be loaded: "))
		}
		e = e.WithHint("a model's folder holds config.json, a tokenizer and *.safetensors")
	default:
	}
	if len(of) == 1 {
		e.Node = of[0].Node
	}
	return e
}

// largest finds the node with the largest budget among those that a model does not fit on.
func largest(s *cluster.Snapshot, r *cluster.Request, of []cluster.Refusal, live Live) (need, budget int64, node string) {
	for _, x := range of {
		n := &s.Nodes[indexNode(s, x.Node)]
		m, known := modelOn(n, r.Model, live)
		if known && (n.BudgetBytes > budget || node == "") {
			need, budget, node = Need(m), n.BudgetBytes, nameOf(s, n.ID)
		}
	}
	return need, budget, node
}

// list names nodes with their reasons, the first few of them.
func list(s *cluster.Snapshot, of []cluster.Refusal) string {
	const most = 3
	var parts []string
	for i, x := range of {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(of)-most))
			break
		}
		parts = append(parts, fmt.Sprintf("%s (%s)", nameOf(s, x.Node), x.Reason))
	}
	return strings.Join(parts, ", ")
}

func having(refused []cluster.Refusal, code cluster.Code) []cluster.Refusal {
	var out []cluster.Refusal
	for _, x := range refused {
		if x.Code == code {
			out = append(out, x)
		}
	}
	return out
}

// anyKnows says whether one of these nodes has the model: then the node is the problem, not the model.
func anyKnows(s *cluster.Snapshot, r *cluster.Request, of []cluster.Refusal, live Live) bool {
	for _, x := range of {
		if i := indexNode(s, x.Node); i >= 0 {
			if _, ok := modelOn(&s.Nodes[i], r.Model, live); ok {
				return true
			}
		}
	}
	return false
}

func indexNode(s *cluster.Snapshot, id cluster.NodeID) int {
	for i := range s.Nodes {
		if s.Nodes[i].ID == id {
			return i
		}
	}
	return -1
}

func nameOf(s *cluster.Snapshot, id cluster.NodeID) string {
	if i := indexNode(s, id); i >= 0 && s.Nodes[i].Name != "" {
		return s.Nodes[i].Name
	}
	return string(id)
}
