package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// A Recovery is what members sign to reopen a domain of which a majority of nodes
// restarted together: that the ledger goes on from one node's disk as it is. What
// was acknowledged after its last entry, if anything, is lost by it.
type Recovery struct {
	Domain keystead.Digest
	Roster uint64          // sequence of the roster on the disk, whose members sign
	Node   string          // whose disk it is
	Term   uint64          // of the last entry of its log
	Last   uint64          // and its index: the highest of all nodes by term and index loses least
	Disk   keystead.Digest // of the replica's plan, which no other state of a disk gives
}

// Text returns the text that members sign.
func (r Recovery) Text() []byte {
	return fmt.Appendf(nil, "%s\ndomain %s\nroster %d\nnode %s\nterm %d\nlast %d\ndisk %s\n", key.KindRecovery, receipt.Origin(r.Domain), r.Roster, r.Node, r.Term, r.Last, r.Disk)
}

// ParseRecovery reads a text that [Recovery.Text] wrote.
func ParseRecovery(text []byte) (r Recovery, err error) {
	lines := strings.Split(string(text), "\n")
	bad := func(field, problem string) (Recovery, error) {
		return Recovery{}, &keystead.FormatError{Format: "recovery", Field: field, Problem: problem}
	}
	words := []string{"domain", "roster", "node", "term", "last", "disk"}
	if len(lines) != len(words)+2 || lines[0] != string(key.KindRecovery) || lines[len(lines)-1] != "" {
		return bad("kind", "wants "+string(key.KindRecovery)+" and the lines "+strings.Join(words, ", "))
	}
	value := map[string]string{}
	for i, w := range words {
		v, ok := strings.CutPrefix(lines[i+1], w+" ")
		if !ok {
			return bad(w, fmt.Sprintf("line %d is %.80q", i+2, lines[i+1]))
		}
		value[w] = v
	}
	r.Node = value["node"]
	if r.Domain, err = keystead.ParseDigest("sha256:" + strings.TrimPrefix(value["domain"], "keystead/")); err != nil {
		return bad("domain", err.Error())
	}
	if r.Disk, err = keystead.ParseDigest(value["disk"]); err != nil {
		return bad("disk", err.Error())
	}
	for w, n := range map[string]*uint64{"roster": &r.Roster, "term": &r.Term, "last": &r.Last} {
		if *n, err = strconv.ParseUint(value[w], 10, 64); err != nil {
			return bad(w, err.Error())
		}
	}
	if string(r.Text()) != string(text) {
		return bad("text", "is not how it is written")
	}
	return r, nil
}

// PlanRecovery returns the recovery from the disk of a node that does not run. It
// changes nothing.
func PlanRecovery(cfg Config) (r Recovery, err error) {
	err = recoverWith(cfg, func(plan Recovery, _ *receipt.Roster) error {
		r = plan
		return errPlanned
	})
	if errors.Is(err, errPlanned) {
		err = nil
	}
	return r, err
}

var errPlanned = errors.New("only planned")

// Recover makes the disk of a node that does not run the one that the ledger goes on
// from, by a recovery that the members' threshold signed. The node then starts in
// place and leads; all others rejoin it. The signed text goes onto the ledger.
func Recover(cfg Config, signed []byte) (r Recovery, err error) {
	err = recoverWith(cfg, func(plan Recovery, roster *receipt.Roster) error {
		r = plan
		if err := plan.authorised(roster, signed); err != nil {
			return err
		}
		path := filepath.Join(cfg.Dir, recoveryFile)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return conf.WriteNew(path, signed)
	})
	return r, err
}

// authorised checks that members signed this very recovery.
func (r Recovery) authorised(roster *receipt.Roster, signed []byte) error {
	text, by, err := key.Open(signed, key.KindRecovery, roster.Members...)
	if err != nil {
		return err
	}
	if len(by) < roster.Threshold {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonThresholdMissing, Where: "recovery",
			Want: fmt.Sprintf("signatures of %d of %d members", roster.Threshold, len(roster.Members)), Got: strconv.Itoa(len(by))})
	}
	given, err := ParseRecovery(text)
	if err != nil {
		return err
	}
	if given.Domain != r.Domain {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonDomainMismatch, Where: "recovery", Want: receipt.Origin(r.Domain), Got: receipt.Origin(given.Domain)})
	}
	if given != r {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonRecoveryMismatch, Where: "recovery", Want: r.String(), Got: given.String()})
	}
	return nil
}

// String names the state that a recovery is from.
func (r Recovery) String() string {
	return fmt.Sprintf("node %s under roster %d with a log up to entry %d of term %d, disk %s", r.Node, r.Roster, r.Last, r.Term, r.Disk)
}

// recoverWith opens the store of a node that does not run, and asks.
func recoverWith(cfg Config, authorise func(Recovery, *receipt.Roster) error) error {
	n := newNode(cfg, Options{})
	var err error
	if n.self, err = loadTLS(cfg.Dir); err != nil {
		return err
	}
	if err := n.loadDomain(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), tpmPatience)
	defer cancel()
	if err := n.openTPM(ctx); err != nil {
		return err
	}
	if n.tpm != nil {
		defer n.tpm.Close()
	}
	n.machine = &machine{domain: cfg.Domain, heard: func(heard) {}}
	dir := filepath.Join(cfg.Dir, storeDir)
	from, err := replica.Aside(vfs.Default, dir)
	if err != nil {
		return err
	}
	opts := replica.StoreOptions{FS: vfs.Default, Dir: from, Machine: n.machine}
	err = replica.Recover(opts, n.seal(), n.self.Pin, func(plan replica.RecoveryPlan) error {
		roster, sequence, _ := n.machine.roster()
		if len(roster.Nodes) == 0 {
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonRosterUnknown, Where: "store", Want: "a ledger that has begun", Got: "none on this disk"})
		}
		return authorise(Recovery{Domain: cfg.Domain, Roster: sequence, Node: n.name, Term: plan.Term, Last: plan.Last, Disk: plan.Digest()}, &roster)
	})
	if err != nil {
		return err
	}
	return replica.PutBack(vfs.Default, dir)
}

// recoveryContract owns the keys under which recoveries are on the ledger, for
// everyone to see.
const recoveryContract = "recovery"

// publishRecovery writes the recovery that this node began from to the ledger.
func (n *core) publishRecovery(ctx context.Context) error {
	path := filepath.Join(n.cfg.Dir, recoveryFile)
	signed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, _, err := key.Peek(signed)
	if err != nil {
		return err
	}
	r, err := ParseRecovery(text)
	if err != nil {
		return err
	}
	if err := n.record(ctx, recoveryContract, recoveryContract+"/"+hex.EncodeToString(r.Disk[:]), signed); err != nil {
		return err
	}
	n.log.Warn("the domain was reopened by members from this node's disk", "recovery", r)
	return os.Remove(path)
}

// ownRecovery returns the last note by which members had the ledger go on from this node's
// disk; nil if there is none.
func (n *core) ownRecovery() (note []byte, err error) {
	last := uint64(0)
	take := func(signed []byte) {
		text, _, err := key.Peek(signed)
		if err != nil {
			return
		}
		if r, err := ParseRecovery(text); err == nil && r.Node == n.name && r.Last >= last {
			note, last = signed, r.Last
		}
	}
	if signed, err := os.ReadFile(filepath.Join(n.cfg.Dir, recoveryFile)); err == nil {
		take(signed)
	}
	err = n.view(func(v ledger.View) error {
		return v.Keys(recoveryContract+"/", func(_ string, value ledger.Value) bool { take(value.Data); return true })
	})
	return note, err
}

// record writes a value of a contract of the nodes' own, unless it is there.
func (n *core) record(ctx context.Context, contract, key string, value []byte) error {
	same := false
	if err := n.view(func(v ledger.View) error {
		now, err := v.Get(key)
		same = now.Version > 0 && string(now.Data) == string(value)
		return err
	}); err != nil || same {
		return err
	}
	return n.transact(ctx, contract, []ledger.Write{{Key: key, Value: value}})
}
