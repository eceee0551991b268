package cmd

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/printer"
)

// upSummary is the last line of `up -o json`.
type upSummary struct {
	Type    string       `json:"type"` // summary
	Cluster string       `json:"cluster"`
	HTTP    string       `json:"http"`
	BaseURL string       `json:"base_url"`          // for OpenAI clients
	APIKey  string       `json:"api_key,omitempty"` // of the `up` that made the cluster
	Nodes   []upNode     `json:"nodes"`             // in the cluster now
	Hosts   []hostResult `json:"hosts"`             // what came of each that was looked at
	Serving int          `json:"serving"`
	Changed int          `json:"changed"`
	Failed  int          `json:"failed"`
	TookMS  int64        `json:"took_ms"`
}

// summarise tells what serves now and what does not, and why.
func (u *upRun) summarise(ctx context.Context, items []*planItem) error {
	soon, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := u.local.client.Snapshot(soon)
	if err != nil {
		return err
	}
	e, err := u.lanEndpoint()
	if err != nil {
		return err
	}
	r := upSummary{
		Type: "summary", Cluster: s.Cluster, HTTP: strings.TrimSuffix(e.BaseURL, "/v1"), BaseURL: e.BaseURL,
		Nodes: []upNode{}, Hosts: []hostResult{}, TookMS: time.Since(u.began).Milliseconds(),
	}
	if u.isFirst && !u.cluster.only {
		r.APIKey = e.APIKey
	}
	if u.local.changed {
		r.Changed++
	}
	for _, n := range s.Nodes {
		r.Nodes = append(r.Nodes, upNode{n.ID, n.Name, n.State})
		if n.State == cluster.NodeReady {
			r.Serving++
		}
	}
	failures := failuresOf(items)
	r.Failed = len(failures)
	for _, p := range items {
		h := resultOf(p)
		r.Hosts = append(r.Hosts, h)
		if h.Changed {
			r.Changed++
		}
	}
	if err := u.tellSummary(r, failuresBefore(failures)+warningLines(items, failures)); err != nil {
		return err
	}
	return exitOfHosts(items, failures)
}

// lanEndpoint is the gateway, as clients on this machine reach it.
func (u *upRun) lanEndpoint() (endpoint, error) {
	if u.parts != nil {
		key, err := u.authority.APIKey()
		return endpoint{BaseURL: "http://" + defaultHTTPAddr + "/v1", APIKey: key}, err
	}
	return u.localEndpoint(u.cfg)
}

// failuresOf are the machines that should serve and do not. One that Bonjour merely saw is none.
func failuresOf(items []*planItem) []*planItem {
	var out []*planItem
	for _, p := range items {
		hasFailed := p.What == whatCannot || (p.outcome != nil && p.outcome.err != nil) || (p.isInstall() && p.outcome == nil)
		if hasFailed && !p.isSeen {
			out = append(out, p)
		}
	}
	return out
}

// exitOfHosts is the error of machines that failed, with the exit code for what came of all of them; nil where none did. Of a
// single one it says why; of several, failuresBefore has said so.
func exitOfHosts(items, failures []*planItem) error {
	if len(failures) == 0 {
		return nil
	}
	counted := 0
	for _, p := range items {
		if !p.isSeen && !p.isSelf {
			counted++
		}
	}
	why := failuresText(failures)
	if len(failures) < counted {
		return &hostsError{exitPartial, why}
	}
	isAuth := func(p *planItem) bool {
		return p.isAuth || (p.outcome != nil && cluster.CodeOf(p.outcome.err) == cluster.CodeUnauthorized)
	}
	if !slices.ContainsFunc(failures, func(p *planItem) bool { return !isAuth(p) }) {
		return &hostsError{exitAuth, why}
	}
	return &hostsError{exitFailed, why}
}

// failuresText is one error for all of them.
func failuresText(failures []*planItem) *cluster.Error {
	if len(failures) == 1 {
		p := failures[0]
		code, message, fix := whyFailed(p)
		return (&cluster.Error{Code: code, Message: printer.Clean(p.Name) + ": " + printer.OneLine(message)}).WithHint("%s", printer.OneLine(fix))
	}
	names := make([]string, len(failures))
	for i, p := range failures {
		names[i] = printer.Clean(p.Name)
	}
	return cluster.Errorf(cluster.CodeConflict, "%d machines failed: %s", len(failures), strings.Join(names, ", "))
}

// failuresBefore is what stands before the error of exitOfHosts.
func failuresBefore(failures []*planItem) string {
	if len(failures) != 1 {
		return failureLines(failures)
	}
	if p := failures[0]; len(p.log) > 0 {
		return explanation(p, "the end of its agent's log", "") + logLines(p.log)
	}
	return ""
}

// whyFailed is why a machine does not do what it should, and what mends that.
func whyFailed(p *planItem) (code cluster.Code, message, fix string) {
	switch {
	case p.outcome != nil && p.outcome.err != nil:
		e := cluster.AsError(p.outcome.err)
		return e.Code, p.outcome.text(), e.Hint
	case p.isAuth:
		return cluster.CodeUnauthorized, p.Reason, p.Fix
	default:
		return cluster.CodeConflict, p.Reason, p.Fix
	}
}

func (u *upRun) tellSummary(r upSummary, explained string) error {
	switch u.events.out.Format {
	case printer.JSON:
		return printer.Line(u.streams.Out, r)
	case printer.YAML:
		return printer.Object(u.streams.Out, printer.YAML, r)
	default:
	}
	var b strings.Builder
	if r.Changed > 0 || r.Failed == 0 || !u.cluster.only {
		own := ""
		if u.local.changed && r.Changed > 1 {
			own = " with this machine"
		}
		fmt.Fprintf(&b, "%s, %d changed%s (%.1f s)\n", countNodes(r.Serving), r.Changed, own, float64(r.TookMS)/1000)
	}
	b.WriteString(explained)
	if !u.cluster.only {
		b.WriteString("\n" + accessText(r.BaseURL, r.APIKey))
	}
	_, err := io.WriteString(u.streams.Out, b.String())
	return err
}

// accessText says how clients reach the cluster; a key that was shown before is not shown again.
func accessText(baseURL, apiKey string) string {
	return fmt.Sprintf("  API      %s\n  key      %s\n  clients  eval \"$(mlxctl env)\"\n", baseURL, first(apiKey, "`mlxctl env` prints it"))
}

func countNodes(n int) string {
	if n == 1 {
		return "1 node serves"
	}
	return fmt.Sprintf("%d nodes serve", n)
}

// failureLines say of each machine in one line why it does not serve, and what mends that; the end of its log follows.
func failureLines(failures []*planItem) string {
	var b strings.Builder
	for _, p := range failures {
		_, message, fix := whyFailed(p)
		b.WriteString(explanation(p, message, fix))
		b.WriteString(logLines(p.log))
	}
	return b.String()
}

// leftLines say of each machine that was left as it is why that is so.
func leftLines(items []*planItem) string {
	var b strings.Builder
	for _, p := range items {
		if p.left != "" {
			b.WriteString(explanation(p, "what is there is left as it is: "+p.left, ""))
		}
	}
	return b.String()
}

// mostLogLines is how much of an agent's log explains a failure.
const mostLogLines = 10

// endOfLog is the end of a log, free of control characters.
func endOfLog(log []string) []string {
	var out []string
	for _, line := range log[max(0, len(log)-mostLogLines):] {
		out = append(out, printer.Clean(line))
	}
	return out
}

// logLines are the end of a log below the line that it explains.
func logLines(log []string) string {
	var b strings.Builder
	for _, line := range endOfLog(log) {
		b.WriteString("    " + line + "\n")
	}
	return b.String()
}

// warningLines say of machines that serve what keeps them from doing so as well as they could, and what mends that.
func warningLines(items, failures []*planItem) string {
	var b strings.Builder
	for _, p := range items {
		if !resultOf(p).Serves || slices.Contains(failures, p) {
			continue
		}
		for _, f := range p.Warnings {
			b.WriteString(explanation(p, f.Message, f.Fix))
		}
	}
	return b.String()
}

func explanation(p *planItem, message, fix string) string {
	line := printer.Clean(p.Name) + ": " + printer.OneLine(message)
	if fix != "" {
		line += "; mend: " + printer.OneLine(fix)
	}
	return line + "\n"
}
