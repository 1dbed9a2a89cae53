package main

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// ledger: what a domain agreed on.
func (a *app) ledger() *cobra.Command {
	return a.Noun("ledger", "Write to a domain's ledger, read it, audit it",
		`The ledger is what a domain's nodes agreed on: entries in one order, in a Merkle tree
whose root a majority signs. Keys of the key-value contract start with kv/.`,
		`  keystead ledger put kv/colour blue --domain demo/domain.json
  keystead ledger get kv/colour --domain demo/domain.json
  keystead ledger verify --domain demo/domain.json`,
		a.ledgerGet(), a.ledgerPut(), a.ledgerDelete(), a.ledgerKey(), a.ledgerTail(), a.ledgerVerify(),
	)
}

func (a *app) ledgerGet() *cobra.Command {
	var f cli.ClientFlags
	var stale bool
	c := &cobra.Command{
		Use:   "get KEY... --domain FILE",
		Short: "Read keys, linearizably",
		Long: `Reads keys: all writes acknowledged before are seen. With --stale a node answers from
what it has. One key prints its value as it is; several print a line each. The exit status
is 8 where a key has no value.`,
		Example: `  keystead ledger get kv/colour --domain demo/domain.json`,
		Args:    cobra.MinimumNArgs(1),
	}
	f.Add(c)
	c.Flags().BoolVar(&stale, "stale", false, "take what one node has, without asking the others")
	c.RunE = func(_ *cobra.Command, keys []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		r, err := cl.Read(ctx, stale, keys...)
		if err != nil {
			return err
		}
		var missing error
		var found []cli.Members
		for _, v := range r.GetValues() {
			if v.GetVersion() == 0 {
				missing = errors.Join(missing, cli.NotFound(fmt.Errorf("%s has no value", v.GetKey()), ""))
				continue
			}
			found = append(found, append(cli.Members{{Name: "key", Value: v.GetKey()}, {Name: "version", Value: v.GetVersion()}}, cli.Content(v.GetValue())...))
		}
		if missing != nil && len(found) == 0 {
			return missing
		}
		return errors.Join(a.Answer(cli.Members{{Name: "index", Value: r.GetIndex()}, {Name: "values", Value: found}}, func(w io.Writer) {
			if len(keys) == 1 {
				w.Write(r.GetValues()[0].GetValue())
				fmt.Fprintln(w)
				return
			}
			for _, v := range r.GetValues() {
				if v.GetVersion() != 0 {
					fmt.Fprintf(w, "%s\t%d\t%s\n", v.GetKey(), v.GetVersion(), text(v.GetValue()))
				}
			}
		}), missing)
	}
	return c
}

// text shows a value on one line.
func text(b []byte) string {
	if utf8.Valid(b) {
		return cli.Printable(string(b))
	}
	return "base64:" + base64.StdEncoding.EncodeToString(b)
}

func (a *app) ledgerPut() *cobra.Command {
	var f cli.ClientFlags
	var ifValue string
	var ifAbsent bool
	var requestID string
	c := &cobra.Command{
		Use:   "put KEY VALUE --domain FILE",
		Short: "Write a key; VALUE - reads standard input",
		Long: `Writes a value and waits until a majority of nodes has it on disk. It happens once, over
all retries; over several calls with --request-id and the request that the first one's answer
(--json) or hint names, up to its deadline. The answer names the leaf to ask a receipt for.`,
		Example: `  keystead ledger put kv/colour blue --domain demo/domain.json
  keystead ledger put kv/colour green --if-value blue --domain demo/domain.json`,
		Args: cobra.ExactArgs(2),
	}
	f.Add(c)
	f.MayWrite(c)
	c.Flags().StringVar(&ifValue, "if-value", "", "only if the key has this `VALUE`")
	c.Flags().BoolVar(&ifAbsent, "if-absent", false, "only if the key has no value")
	c.Flags().StringVar(&requestID, "request-id", "", "`REQUEST` that was sent before, of the answer or hint, or 32 hex digits of a new one")
	c.MarkFlagsMutuallyExclusive("if-value", "if-absent")
	c.RunE = func(c *cobra.Command, args []string) error {
		op := &apiv1.Operation{Key: args[0], Value: []byte(args[1])}
		if args[1] == "-" {
			b, err := cli.ReadFile("-", ledger.MaxValue)
			if err != nil {
				return err
			}
			op.Value = b
		}
		if c.Flags().Changed("if-value") {
			op.Compare = &apiv1.Compare{Want: &apiv1.Compare_Value{Value: []byte(ifValue)}}
		}
		if ifAbsent {
			op.Compare = &apiv1.Compare{Want: &apiv1.Compare_Absent{Absent: true}}
		}
		return a.execute(&f, requestID, op)
	}
	return c
}

func (a *app) ledgerDelete() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:     "delete KEY --domain FILE",
		Short:   "Delete a key",
		Long:    `Deletes a key's value. The ledger keeps the entries that wrote it.`,
		Example: `  keystead ledger delete kv/colour --domain demo/domain.json`,
		Args:    cobra.ExactArgs(1),
	}
	f.Add(c)
	f.MayWrite(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		return a.execute(&f, "", &apiv1.Operation{Key: args[0], Delete: true})
	}
	return c
}

// again reads --request-id: 32 hex digits, and with the deadline behind them a request that
// was sent before: a request is the same only with both.
func again(tx *apiv1.Transaction, request string) (err error) {
	id, deadline, sent := strings.Cut(request, "@")
	if tx.RequestId, err = hex.DecodeString(id); err == nil && sent {
		tx.DeadlineMs, err = strconv.ParseUint(deadline, 10, 64)
	}
	if err != nil {
		return cli.Misuse(fmt.Errorf("--request-id: %w", err), "an answer's request, as --json gives it, or 32 hex digits")
	}
	return nil
}

// execute runs one operation and answers with its outcome.
func (a *app) execute(f *cli.ClientFlags, requestID string, op *apiv1.Operation) error {
	tx := &apiv1.Transaction{Contract: client.KV, Operations: []*apiv1.Operation{op}}
	if err := again(tx, requestID); err != nil {
		return err
	}
	cl, ctx, done, err := f.Open()
	if err != nil {
		return err
	}
	defer done()
	o, err := cl.Execute(ctx, tx)
	request := fmt.Sprintf("%x@%d", tx.GetRequestId(), tx.GetDeadlineMs())
	if err != nil && cli.Stage(err) == keystead.StageUnavailable && tx.GetDeadlineMs() != 0 {
		return cli.Hinted(err, "it may have happened or not; the same once more, and never twice, with --request-id "+request)
	}
	if err != nil {
		return err
	}
	if !o.GetApplied() {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonConditionFailed, Where: op.GetKey(), Want: "the value compared with", Got: "another"})
	}
	answer := struct {
		Leaf          uint64          `json:"leaf"`
		TransactionID keystead.Digest `json:"transaction_id"`
		Request       string          `json:"request"` // for --request-id
	}{o.GetLeaf(), keystead.Digest(o.GetTransactionId()), request}
	return a.Answer(answer, func(w io.Writer) { fmt.Fprintf(w, "leaf %d, transaction %s\n", answer.Leaf, answer.TransactionID) })
}

func (a *app) ledgerTail() *cobra.Command {
	var f cli.ClientFlags
	var from, to uint64
	var follow bool
	c := &cobra.Command{
		Use:   "tail --domain FILE",
		Short: "Print the entries of the tree, in order",
		Long: `Prints one line for each leaf of the tree: number, kind, transaction id, what it says.
All that was acknowledged before is there. With --follow it goes on as more commit. With
--json each line is an object, with the entry decoded and its bytes.`,
		Example: `  keystead ledger tail --domain demo/domain.json --from 0 --follow`,
		Args:    cobra.NoArgs,
	}
	f.Add(c)
	c.Flags().Uint64Var(&from, "from", 0, "first `LEAF`")
	c.Flags().Uint64Var(&to, "to", 0, "end before that `LEAF` (default: where the tree ends now)")
	c.Flags().BoolVar(&follow, "follow", false, "go on until interrupted")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		if follow {
			ctx = c.Context()
		} else if to == 0 {
			if to, err = cl.Size(ctx); err != nil {
				return err
			}
		}
		a.Lines()
		return cl.Tail(ctx, from, to, func(e *apiv1.Entry) bool { return a.printEntry(e) == nil })
	}
	return c
}

func (a *app) printEntry(e *apiv1.Entry) error {
	if a.JSON {
		return a.Line(append(cli.Members{{Name: "leaf", Value: e.GetLeaf()}, {Name: "kind", Value: e.GetKind()}, {Name: "transaction_id", Value: receipt.LeafHash(e.GetEntry())}}, decoded(e.GetEntry())...))
	}
	_, err := fmt.Fprintf(a.Stdout, "%d %s %s%s\n", e.GetLeaf(), e.GetKind(), receipt.LeafHash(e.GetEntry()), inWords(e.GetEntry()))
	return err
}
