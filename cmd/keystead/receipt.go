package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// receipt: offline proofs of what a ledger holds.
func (a *app) receipt() *cobra.Command {
	return a.Noun("receipt", "Receipts: offline proofs of what a ledger holds",
		`A receipt proves one entry of a domain's ledger to anyone who knows the genesis digest:
the entry, its path to a root that a majority of nodes signed, and the chain of rosters
that says whose signatures count. docs/spec/receipt.md describes it.`,
		`  keystead receipt get 7 --domain demo/domain.json > put.receipt
  keystead receipt verify put.receipt --digest sha256:...`,
		a.receiptGet(), a.receiptVerify(),
	)
}

func (a *app) receiptGet() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:   "get LEAF --domain FILE",
		Short: "Fetch the receipt of a leaf, and verify it",
		Long: `Fetches the receipt of a leaf, waiting for the checkpoint that covers it, verifies it
from the genesis digest, and prints it.`,
		Example: `  keystead receipt get 7 --domain demo/domain.json > put.receipt`,
		Args:    cobra.ExactArgs(1),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		leaf, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			return cli.Misuse(err, "keystead ledger put prints the leaf")
		}
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		if err := withinTree(ctx, cl, leaf); err != nil {
			return err
		}
		text, p, err := cl.Receipt(ctx, leaf)
		if err != nil {
			return err
		}
		answer := struct {
			proven
			Receipt string `json:"receipt"`
		}{provenOf(p), string(text)}
		return a.Answer(answer, func(w io.Writer) { w.Write(text) })
	}
	return c
}

// sizeTime bounds how long the tree's size is asked for, which takes a leader: receipts
// do without one.
const sizeTime = 2 * time.Second

// withinTree refuses a leaf that the tree is known not to have.
func withinTree(ctx context.Context, cl *client.Client, leaf uint64) error {
	ctx, cancel := context.WithTimeout(ctx, sizeTime)
	defer cancel()
	size, err := cl.Size(ctx)
	if err != nil || leaf < size {
		return nil // who asks for it is told
	}
	return cli.NotFound(keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeafFuture, Where: "ledger", Want: fmt.Sprintf("a leaf below %d", size), Got: fmt.Sprintf("leaf %d", leaf)}),
		"keystead ledger tail lists the leaves")
}

// proven is what a receipt proves, as the commands show it.
type proven struct {
	Domain        keystead.Digest `json:"domain"`
	TrustDisks    bool            `json:"trust_disks"`
	NoEvidence    bool            `json:"no_evidence"`
	Leaf          uint64          `json:"leaf"`
	Kind          string          `json:"kind"`
	TransactionID keystead.Digest `json:"transaction_id"`
	TreeSize      uint64          `json:"tree_size"`
	Root          keystead.Digest `json:"root"`
	Roster        uint64          `json:"roster"`
	Writes        []string        `json:"writes,omitempty"`
}

func provenOf(p receipt.Proven) proven {
	out := proven{p.Domain, p.Genesis.TrustsDisks(), !p.Genesis.AsksEvidence(), p.Index, p.Kind.String(), p.ID, p.Head.Size, p.Head.Root, p.Head.Roster, nil}
	if t, err := ledger.ParseTransaction(p.Entry); err == nil {
		for _, w := range t.Writes {
			if w.Delete {
				out.Writes = append(out.Writes, w.Key+" deleted")
			} else {
				out.Writes = append(out.Writes, fmt.Sprintf("%s=%s", w.Key, text(w.Value)))
			}
		}
	}
	return out
}

func (p proven) print(w io.Writer) {
	fmt.Fprintf(w, "proven: leaf %d of domain %s\nkind:   %s, transaction %s\n", p.Leaf, p.Domain, p.Kind, p.TransactionID)
	for _, x := range p.Writes {
		fmt.Fprintf(w, "wrote:  %s\n", cli.Printable(x))
	}
	fmt.Fprintf(w, "tree:   %d leaves, root %s, signed by a majority of roster %d\n", p.TreeSize, p.Root, p.Roster)
	if p.TrustDisks {
		fmt.Fprintln(w, "note:   the domain trusts its nodes' disks (trust-disks): one that was rolled back may have signed")
	}
	if p.NoEvidence {
		fmt.Fprintln(w, "note:   the domain asks no evidence of its nodes (evidence=none): nothing says which machines hold their keys")
	}
}

func (a *app) receiptVerify() *cobra.Command {
	var digest string
	var least uint64
	c := &cobra.Command{
		Use:   "verify FILE --digest DIGEST",
		Short: "Verify a receipt offline, from the genesis digest alone",
		Long: `Verifies a receipt without any connection: the chain from the genesis digest, the
majority's signatures, and the path from the entry to the root that they signed. --roster
refuses receipts that end in an older roster, whose nodes may have lost their keys.`,
		Example: `  keystead receipt verify put.receipt --digest $DIGEST`,
		Args:    cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&digest, "digest", "", "the domain's `DIGEST`")
	c.Flags().Uint64Var(&least, "roster", 0, "lowest `SEQUENCE` of a roster to accept")
	cli.Must(c.MarkFlagRequired("digest"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		domain, err := keystead.ParseDigest(digest)
		if err != nil {
			return cli.Misuse(err, "keystead domain init printed it")
		}
		raw, err := cli.ReadFile(args[0], receipt.MaxReceipt)
		if err != nil {
			return err
		}
		v := receipt.NewVerifier(domain)
		v.RequireRoster(least)
		p, err := v.Verify(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		answer := provenOf(p)
		return a.Answer(answer, answer.print)
	}
	return c
}

func (a *app) ledgerVerify() *cobra.Command {
	var f cli.ClientFlags
	var since string
	c := &cobra.Command{
		Use:   "verify --domain FILE",
		Short: "Audit the whole ledger against a checkpoint that a majority signed",
		Long: `Fetches every leaf up to the newest checkpoint, computes the tree's root and compares it with
the one that a majority of nodes signed, and verifies the chain of rosters on the way.
With --since the newest checkpoint must continue one kept from before. Then every node is
asked to sign the tree of that size, and one that signs another is named (ledger-forked): a
majority's signatures say what is so only while the nodes have one log. The checkpoint
verified is printed, to be kept for the next time.`,
		Example: `  keystead ledger verify --domain demo/domain.json > checkpoint.txt
  keystead ledger verify --domain demo/domain.json --since checkpoint.txt`,
		Args: cobra.NoArgs,
	}
	f.Add(c)
	c.Flags().StringVar(&since, "since", "", "`FILE` with an older checkpoint")
	c.RunE = func(*cobra.Command, []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		var old []byte
		if since != "" {
			if old, err = os.ReadFile(since); err != nil {
				return cli.Misuse(err, "")
			}
		}
		audit, err := cl.Audit(ctx, old)
		if err != nil {
			return err
		}
		stands, err := cl.Stands(ctx, audit.Head)
		for _, s := range stands {
			if s.Err != nil {
				fmt.Fprintf(a.Stderr, "keystead: node %s was not compared: %s\n", s.Node, cli.Printable(s.Err.Error()))
			}
		}
		if err != nil {
			return err
		}
		return a.Answer(audited(audit, stands), func(w io.Writer) { w.Write(audit.Checkpoint) })
	}
	return c
}

func audited(x *client.Audit, stands []client.Stand) any {
	agree := []string{}
	for _, s := range stands {
		if s.Err == nil {
			agree = append(agree, s.Node)
		}
	}
	return struct {
		Leaves     uint64          `json:"leaves"`
		Root       keystead.Digest `json:"root"`
		Roster     uint64          `json:"roster"`
		Checkpoint string          `json:"checkpoint"`
		Agree      []string        `json:"agree"` // nodes that signed that tree when they were asked
	}{x.Head.Size, x.Head.Root, x.Head.Roster, string(x.Checkpoint), agree}
}
