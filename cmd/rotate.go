package cmd

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
)

const (
	// rejoinTimeout bounds one question to a node, backTimeout its return after its connection was closed.
	rejoinTimeout, backTimeout = 5 * time.Second, 15 * time.Second
	// applyTimeout bounds the time until the running server has taken in what was written down.
	applyTimeout = 10 * time.Second
	backEvery    = 50 * time.Millisecond
	// mostRejoining bounds the nodes that are asked at a time.
	mostRejoining = 16
)

// States of a node whose key or token was to be replaced.
const (
	rotatedDone    = "renewed"
	rotatedMissing = "unreachable" // it has what it had
	rotatedFailed  = "failed"      // it was asked, and is not back
	rotatedRefused = "refused"     // it was not admitted; nothing is signed for it
)

// rotated is what came of one node, and its shape in JSON.
type rotated struct {
	Node  cluster.NodeID `json:"node"`
	Name  string         `json:"name"`
	State string         `json:"state"`
	Error *cluster.Error `json:"error,omitempty"`
}

// member is a node whose credentials are to be replaced.
type member struct {
	id   cluster.NodeID
	name string
	node *roster.Node // as it was admitted; nil for one that is not in the roster, as the controller's own may be
}

// rotation replaces keys while everything runs. It speaks to nodes as a controller does: whoever has the cluster's
// identity can.
type rotation struct {
	authority *trust.Authority
	roster    *roster.Roster
	own       cluster.NodeID // of the controller's machine, which need not be in the roster
	bus       func() bus.Options
	live      func(context.Context) ([]cluster.Node, error)
	log       *slog.Logger
}

// members are the nodes in the roster and those that are there without.
func (r *rotation) members(ctx context.Context) ([]member, error) {
	admitted, err := r.roster.List()
	if err != nil {
		return nil, err
	}
	live, err := r.live(ctx)
	if err != nil {
		return nil, err
	}
	var out []member
	for i := range admitted {
		out = append(out, member{admitted[i].ID, admitted[i].Name, &admitted[i]})
	}
	for _, n := range live {
		known := slices.ContainsFunc(out, func(m member) bool { return m.id == n.ID })
		if !known && n.State != cluster.NodeDown {
			out = append(out, member{n.ID, n.Name, nil})
		}
	}
	slices.SortFunc(out, func(a, b member) int { return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.id, b.id)) })
	return out, nil
}

// dial connects as a controller, whatever signs it.
func (r *rotation) dial(ctx context.Context, sign func(pub string) (string, error)) (*bus.Conn, error) {
	o := r.bus()
	o.Name, o.InboxPrefix, o.WaitForConnect, o.Log = "keys", "_INBOX_ctl", true, r.log
	o.Renew = func() (bus.Credentials, error) { return newUser(sign) }
	return bus.Dial(ctx, o)
}

// signing replaces the signing key. Each step lasts: whoever was interrupted goes on by doing it again.
func (r *rotation) signing(ctx context.Context, force bool) ([]rotated, error) {
	probe, err := r.authority.AddSigner()
	if err != nil {
		return nil, err
	}
	conn, err := r.awaitSigner(ctx, probe)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // all was said
	before, err := r.authority.SignerKey()
	if err != nil {
		return nil, err
	}
	old, err := r.dialOnce(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = old.Close() }() // it was there to see its end
	if err := r.authority.UseSigner(); err != nil {
		return nil, err
	}
	members, err := r.members(ctx)
	if err != nil {
		return nil, err
	}
	results := r.each(ctx, members, func(ctx context.Context, m member) error { return r.resign(ctx, conn, m) })
	if missing := without(results); len(missing) > 0 && !force {
		return results, partly(results, "run it again when they are back, or let them go with --force; until then the key before stays good")
	}
	after, err := r.authority.SignerKey()
	if err != nil {
		return results, err
	}
	if err := r.authority.RetireSigners(); err != nil {
		return results, err
	}
	if before != after {
		awaitEnd(ctx, old)
	} else {
		pause(ctx, 4*trustCheckEvery) // begun by somebody else: nothing of the old key is at hand to see its end
	}
	for i := range results {
		if results[i].State == rotatedDone {
			r.await(ctx, conn, &results[i], func(bus.RejoinReply) bool { return true })
		}
	}
	return results, partly(results, "`mlxctl up` adds them again")
}

// awaitSigner connects with the new key as soon as the running server believes it.
func (r *rotation) awaitSigner(ctx context.Context, sign func(pub string) (string, error)) (*bus.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	for {
		conn, err := r.dial(ctx, sign)
		if err == nil || cluster.CodeOf(err) != cluster.CodeUnauthorized || !pause(ctx, backEvery) {
			return conn, err
		}
	}
}

// dialOnce connects with the signing key that is in use now and never renews that.
func (r *rotation) dialOnce(ctx context.Context) (*bus.Conn, error) {
	c, err := newUser(r.authority.SignController)
	if err != nil {
		return nil, err
	}
	o := r.bus()
	o.Name, o.InboxPrefix, o.WaitForConnect, o.Log, o.Credentials = "keys", "_INBOX_ctl", true, r.log, c
	return bus.Dial(ctx, o)
}

// awaitEnd waits until the server has closed a connection.
func awaitEnd(ctx context.Context, conn *bus.Conn) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	for conn.Connected() && pause(ctx, backEvery) {
	}
}

// pause says whether the time passed; it did not where ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// resign has a node take a token that the newest key signed.
func (r *rotation) resign(ctx context.Context, conn *bus.Conn, m member) error {
	has, err := rejoin(ctx, conn, m.id, bus.RejoinRequest{})
	if err != nil {
		return err
	}
	key, err := r.keyOf(m.id, has)
	if err != nil {
		return err
	}
	if m.node != nil && m.node.Key != key {
		return cluster.Errorf(cluster.CodeConflict, "it has another key than the one that was admitted").
			WithHint("`mlxctl keys rotate nodes` gives it a new one")
	}
	token, err := r.authority.SignAgent(key, m.id)
	if err != nil {
		return err
	}
	_, err = rejoin(ctx, conn, m.id, bus.RejoinRequest{JWT: token})
	return err
}

// keyOf is the key that a node proves to have been signed for. What it says of keys counts for nothing otherwise: it could
// have the key of another node revoked.
func (r *rotation) keyOf(id cluster.NodeID, has bus.RejoinReply) (string, error) {
	if _, _, err := r.authority.Reload(); err != nil {
		return "", err
	}
	node, key, err := r.authority.NodeOf(has.JWT)
	if err != nil {
		return "", err
	}
	if node != id {
		return "", cluster.Errorf(cluster.CodeUnauthorized, "it answers with the token of node %s", node)
	}
	return key, nil
}

// nodeKeys replaces the keys of all nodes, one node after the other, so that the others serve.
func (r *rotation) nodeKeys(ctx context.Context) ([]rotated, error) {
	members, err := r.members(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := r.dial(ctx, r.authority.SignController)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // all was said
	var results []rotated
	for _, m := range members {
		var key string
		result := r.each(ctx, []member{m}, func(ctx context.Context, m member) (err error) {
			key, err = r.newKey(ctx, conn, m)
			return err
		})[0]
		if result.State == rotatedDone {
			r.await(ctx, conn, &result, func(has bus.RejoinReply) bool { return has.Live == key })
		}
		results = append(results, result)
	}
	return results, partly(results, "run it again when they are back")
}

// newKey has a node use a key that it makes, and revokes those that it had.
func (r *rotation) newKey(ctx context.Context, conn *bus.Conn, m member) (string, error) {
	had, err := rejoin(ctx, conn, m.id, bus.RejoinRequest{NewKey: true})
	if err != nil {
		return "", err
	}
	key, err := r.keyOf(m.id, had)
	if err != nil {
		return "", err
	}
	if !trust.Verify(had.Next, bus.NextKeyClaim(m.id, had.Next), had.Proof) {
		return "", cluster.Errorf(cluster.CodeUnauthorized, "it claims a key that is not its own")
	}
	token, err := r.authority.SignAgent(had.Next, m.id)
	if err != nil {
		return "", err
	}
	if _, err := rejoin(ctx, conn, m.id, bus.RejoinRequest{JWT: token}); err != nil {
		return "", err
	}
	former := []string{key}
	if m.node != nil && m.node.Key != key {
		former = append(former, m.node.Key) // the command was ended between the node's change and the roster's
	}
	for _, key := range former {
		if _, _, err := r.authority.Revoke(key); err != nil {
			return "", err
		}
	}
	if m.node == nil {
		return had.Next, nil
	}
	err = r.roster.Update(m.id, func(n *roster.Node) { n.Key = had.Next })
	if err != nil { // a key that is not in the list could not be taken from it
		if _, _, revokeErr := r.authority.Revoke(had.Next); revokeErr != nil {
			err = errors.Join(err, revokeErr)
		}
		return "", err
	}
	return had.Next, nil
}

func rejoin(ctx context.Context, conn *bus.Conn, id cluster.NodeID, q bus.RejoinRequest) (bus.RejoinReply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, rejoinTimeout, cluster.Errorf(cluster.CodeTimeout, "it does not answer"))
	defer cancel()
	var reply bus.RejoinReply
	err := conn.Request(ctx, bus.CommandSubject(id, bus.VerbRejoin), q, &reply)
	return reply, err
}

// admitted is nil for a node for which something may be signed.
func (r *rotation) admitted(m member) error {
	if m.node != nil || (m.id == r.own && m.id != "") {
		return nil
	}
	return cluster.Errorf(cluster.CodeUnauthorized, "it is not in the list of nodes").WithHint("`mlxctl up` admits it")
}

// each does something with all members at a time.
func (r *rotation) each(ctx context.Context, members []member, do func(context.Context, member) error) []rotated {
	results := make([]rotated, len(members))
	var group errgroup.Group
	group.SetLimit(mostRejoining)
	for i, m := range members {
		group.Go(func() error {
			results[i] = rotated{Node: m.id, Name: m.name, State: rotatedDone}
			err := r.admitted(m)
			if err != nil {
				results[i].Error, results[i].State = cluster.AsError(err), rotatedRefused
				return nil
			}
			if err = do(ctx, m); err == nil {
				return nil
			}
			results[i].Error, results[i].State = cluster.AsError(err), rotatedFailed
			if code := cluster.CodeOf(err); code == cluster.CodeUnreachable || code == cluster.CodeTimeout {
				results[i].State = rotatedMissing
			}
			return nil
		})
	}
	_ = group.Wait() // none of them gives an error
	return results
}

// await waits for a node to be back.
func (r *rotation) await(ctx context.Context, conn *bus.Conn, result *rotated, is func(bus.RejoinReply) bool) {
	ctx, cancel := context.WithTimeout(ctx, backTimeout)
	defer cancel()
	for {
		has, err := rejoin(ctx, conn, result.Node, bus.RejoinRequest{})
		if err == nil && is(has) {
			return
		}
		if !pause(ctx, backEvery) {
			result.State = rotatedFailed
			result.Error = cluster.Errorf(cluster.CodeTimeout, "it did not come back within %s", backTimeout)
			return
		}
	}
}

// without are the names of those that should have new credentials and do not.
func without(results []rotated) []string {
	var out []string
	for _, r := range results {
		if r.State != rotatedDone && r.State != rotatedRefused {
			out = append(out, cmp.Or(r.Name, string(r.Node)))
		}
	}
	return out
}

// partly is nil when all went well, and otherwise says who is left.
func partly(results []rotated, hint string) error {
	left := without(results)
	if len(left) == 0 {
		return nil
	}
	return &partialError{cluster.Errorf(cluster.CodeUnreachable, "%d of %d nodes have no new credentials: %s",
		len(left), len(results), strings.Join(left, ", ")).WithHint("%s", hint)}
}
