package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// noCluster stands for the id of a cluster that is not made yet: no host is a node of that.
const noCluster = "none"

// clusterIDOf is the id of the cluster of a home; noCluster where it has none that can be read.
func clusterIDOf(home string) string {
	authority, err := trust.Open(trustDir(home))
	if err != nil {
		return noCluster
	}
	return authority.ClusterID()
}

// takeOver judges a host that is a node of another cluster, which has to be agreed to by itself.
func (j *judge) takeOver(p *planItem) {
	p.What, p.Reason = whatTakeOver, ofAnother(p.host.Facts.Owner)
	if j.canAsk || (j.mayTakeOver && p.host.From(bootstrap.SourceCommandLine)) {
		return
	}
	p.What = whatCannot
	p.Fix = takeOverFix(p)
	p.isSeen = p.node == nil && p.Source == bootstrap.SourceBonjour
}

func ofAnother(o plan.Owner) string { return "is a node of another cluster (" + o.String() + ")" }

func takeOverFix(p *planItem) string {
	fix := fmt.Sprintf("`mlxctl up %s --take-over` has it leave that one", p.host.Host)
	if p.node != nil {
		fix += fmt.Sprintf("; `mlxctl nodes rm %s` takes it out of this one's list", p.node.ID)
	}
	return fix
}

// isOwnQuestion says that a host is agreed to by itself, as no flag named it.
func (u *upRun) isOwnQuestion(p *planItem) bool { return p.What == whatTakeOver && !u.takeOver }

// agreeToTakeOver asks about the nodes of other clusters, after everything else was agreed to and they let us look.
func (u *upRun) agreeToTakeOver(ctx context.Context, items []*planItem) error {
	var names []string
	for _, p := range items {
		if u.isOwnQuestion(p) {
			names = append(names, printer.Clean(p.Name)+", which "+printer.Clean(p.Reason))
		}
	}
	if len(names) == 0 {
		return nil
	}
	yes, err := u.streams.Confirm(ctx, "Take over "+strings.Join(names, "; ")+"?")
	if err != nil && !errors.Is(err, iostreams.ErrNobody) {
		return err
	}
	for _, p := range items {
		if u.isOwnQuestion(p) && !yes {
			p.isSeen = p.node == nil && p.Source == bootstrap.SourceBonjour
			p.What, p.Reason, p.Fix = whatCannot, p.Reason+", and to take it over was not agreed to", takeOverFix(p)
		}
	}
	return nil
}
