package node

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// closedStates are the states in which a node does not serve until somebody does something,
// the gravest first. docs/guide/closed says of each what is safe, and the commands.
var closedStates = []keystead.Reason{keystead.ReasonDiskFull, keystead.ReasonClosedRecovery, keystead.ReasonClosedRekey, keystead.ReasonClosedNoMajority}

// lost are those of them in which nothing can become certain.
var lost = []keystead.Reason{keystead.ReasonClosedRecovery, keystead.ReasonClosedNoMajority}

// closure is in which of these states this node is. Each is told once when it begins and once
// when it is over.
type closure struct {
	log  *slog.Logger
	node string // the name of this one

	mu    sync.Mutex
	holds map[keystead.Reason]*keystead.DenyError
}

// set says that a state holds, for what was found, or with nil that it does not.
func (c *closure) set(state keystead.Reason, found *keystead.Finding) {
	c.mu.Lock()
	_, held := c.holds[state]
	switch {
	case found == nil:
		delete(c.holds, state)
	default:
		if c.holds == nil {
			c.holds = map[keystead.Reason]*keystead.DenyError{}
		}
		found.Reason = state
		c.holds[state] = keystead.Deny(*found)
	}
	c.mu.Unlock()
	switch {
	case found != nil && !held:
		c.log.Error("this node does not serve", "state", state, "found", found.Got, "want", found.Want)
	case found == nil && held:
		c.log.Info("no longer so", "state", state)
	}
}

// err is the gravest of some of the states that holds, of all if none is named; nil if none does.
func (c *closure) err(of ...keystead.Reason) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, state := range closedStates {
		if deny := c.holds[state]; deny != nil && (len(of) == 0 || slices.Contains(of, state)) {
			return deny
		}
	}
	return nil
}

// doors are where others ask this node: what it does not answer there, and why.
type doors struct {
	*guard
	disk  disk
	short short     // of room, other nodes
	waits time.Time // since when, for a majority, while this node has no place among the others; the replica's alone
}

// closedAfter is how long there is no leader, or too few answer, until a node takes it for a
// state and not for a change of leaders.
const closedAfter = 3 * time.Second

// joining says what it is that a node waits for which has no place among the others yet. That
// others wait as well is their own word: it tells people where to look, and opens nothing.
func (n *doors) joining(j replica.Joining) {
	roster := n.roster()
	total := len(roster.Nodes)
	if !n.belongs(&roster) { // members have yet to add it
		return
	}
	var recovery, majority *keystead.Finding
	switch {
	case total-1-j.Waiting < roster.Majority():
		recovery = &keystead.Finding{Where: "node " + n.name,
			Want: fmt.Sprintf("%d of %d nodes that surely remember what they promised. Members sign from which disk the ledger goes on: stop all nodes, keystead node recover --config FILE on each, keystead member sign --key KEY TEXT", roster.Majority(), total),
			Got:  fmt.Sprintf("this one and %d more restarted without a record of a clean shutdown", j.Waiting)}
	case j.Serving >= roster.Majority():
		n.waits = time.Time{}
	case n.waits.IsZero():
		n.waits = time.Now()
	case time.Since(n.waits) > closedAfter:
		majority = fewNodes(n.name, &roster)
	}
	n.closed.set(keystead.ReasonClosedRecovery, recovery)
	n.closed.set(keystead.ReasonClosedNoMajority, majority)
}

// fewNodes says that too few nodes are there.
func fewNodes(name string, roster *receipt.Roster) *keystead.Finding {
	return &keystead.Finding{Where: "node " + name,
		Want: fmt.Sprintf("%d of %d nodes that run and reach each other. Start the others (keystead node run --config FILE) or bring their links back; keep every node's directory", roster.Majority(), len(roster.Nodes)),
		Got:  fmt.Sprintf("no majority for more than %v", closedAfter)}
}

// closureEvery is how often a node that runs looks whether it serves.
const closureEvery = 500 * time.Millisecond

// closureLoop finds out whether this node, once it has its place, has a leader.
func (n *doors) closureLoop() {
	every := time.NewTicker(closureEvery)
	defer every.Stop()
	led := time.Now()
	for {
		select {
		case <-every.C:
		case <-n.running.Done():
			return
		}
		var few *keystead.Finding
		if n.replica.Status().Leader != 0 {
			led = time.Now()
		} else if roster := n.roster(); time.Since(led) > closedAfter && n.belongs(&roster) {
			few = fewNodes(n.name, &roster)
		}
		n.closed.set(keystead.ReasonClosedNoMajority, few)
	}
}

// starts says why a node that has no place among the others yet answers nothing.
func (c *closure) starts() error {
	if err := c.err(); err != nil {
		return err
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "node " + c.node, Want: "a place among the others, which a majority of them gives", Got: "none yet: it starts"})
}

// opens says why a procedure of the API is not to be called now, or nil.
func (n *doors) opens(path string) error {
	switch {
	case strings.HasPrefix(path, "/grpc."): // health has an answer of its own
		return nil
	case !n.isUp() && path == apiv1connect.NodeServiceCertifyNodeProcedure && n.signers.boot != nil:
		return n.pending() // as every start's key is
	case !n.isUp():
		return n.closed.starts()
	case slices.Contains(grows, path) && n.closed.err(keystead.ReasonDiskFull) != nil:
		return n.closed.err(keystead.ReasonDiskFull)
	case slices.Contains(certain, path):
		return n.closed.err(lost...)
	}
	return nil
}

// certain are the procedures that nobody can answer without a majority. What else there is says
// so itself, or is the word of one node.
var certain = []string{apiv1connect.DomainServiceSubmitProcedure, apiv1connect.HostServiceAdmitProcedure, apiv1connect.HostServiceRenewProcedure,
	apiv1connect.HostServiceIssueSVIDProcedure, apiv1connect.HostServiceReleaseProcedure, apiv1connect.HostServiceListHostsProcedure, apiv1connect.HostServiceListKeysProcedure}

// ended says that this node was told to end before it had its place among the others.
func (c *closure) ended() error {
	findings := []keystead.Finding{{Reason: keystead.ReasonShutdown, Where: "node " + c.node, Want: "a place among the others", Got: "the word to end before it had one"}}
	if deny := (*keystead.DenyError)(nil); errors.As(c.err(), &deny) {
		findings = append(slices.Clone(deny.Findings), findings...)
	}
	return keystead.Deny(findings...)
}

// grows are the procedures that take room for good, and that leases go on without.
var grows = []string{apiv1connect.HostServicePutObjectProcedure, apiv1connect.HostServiceAdmitProcedure}
