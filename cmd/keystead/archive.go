package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/archive"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/receipt"
)

// readingTime is how long a reading is good that is not used at once: other members
// have to sign it.
const readingTime = 20 * time.Hour

// reading are the flags of commands that read archived evidence.
type reading struct {
	cli.ClientFlags
	members       []string
	file, because string
}

func (f *reading) add(c *cobra.Command) {
	f.ClientFlags.Add(c)
	c.Flags().StringArrayVar(&f.members, "member", nil, "`FILE` with the private key of a member who may read; may be repeated")
	c.Flags().StringVar(&f.file, "reading", "", "`FILE` with a reading that members signed (keystead evidence request)")
	c.Flags().StringVar(&f.because, "because", "", "why, in one `LINE`: it is kept on the ledger")
	c.MarkFlagsMutuallyExclusive("member", "reading")
}

// admission finds the leaf that the argument means: a leaf, or a transaction id.
func admission(ctx context.Context, cl *client.Client, arg string) (leaf uint64, text []byte, p receipt.Proven, err error) {
	if leaf, err = strconv.ParseUint(arg, 10, 64); err != nil {
		id, perr := keystead.ParseDigest(arg)
		if perr != nil {
			return 0, nil, p, cli.Misuse(fmt.Errorf("%.80q is neither a transaction id nor a leaf", arg), "keystead host watch prints both; a lease's version is its leaf plus one")
		}
		if leaf, err = cl.FindLeaf(ctx, id); err != nil {
			return 0, nil, p, err
		}
	}
	if err = withinTree(ctx, cl, leaf); err != nil {
		return 0, nil, p, err
	}
	text, p, err = cl.Receipt(ctx, leaf)
	return leaf, text, p, err
}

// signed returns the reading to hand in.
func (f *reading) signed(ctx context.Context, cl *client.Client, id keystead.Digest) ([]byte, error) {
	switch {
	case f.file != "":
		return cli.ReadFile(f.file, 64<<10)
	case len(f.members) == 0:
		return nil, cli.Misuse(errors.New("--member or --reading is required"), "archived evidence is for members whom the setting "+admit.ArchiveReaders+" names")
	case f.because == "":
		return nil, cli.Misuse(errors.New("--because is required"), "say in a line what it is read for")
	}
	text, err := cl.Reading(ctx, id, uint64(5*time.Minute/time.Millisecond), f.because)
	if err != nil {
		return nil, err
	}
	return cli.SignWith(text, f.members)
}

// fetch gathers all that a replay of an admission needs.
func (f *reading) fetch(arg string) (out archive.File, domain keystead.Digest, err error) {
	cl, ctx, done, err := f.Open()
	if err != nil {
		return out, domain, err
	}
	defer done()
	leaf, text, p, err := admission(ctx, cl, arg)
	if err != nil {
		return out, domain, err
	}
	a, err := archive.ReadAdmission(p.Entry)
	if err != nil {
		return out, domain, err
	}
	note, err := f.signed(ctx, cl, p.ID)
	if err != nil {
		return out, domain, err
	}
	terms, err := cl.GetObject(ctx, a.Record.Terms)
	if err != nil {
		return out, domain, err
	}
	out = archive.File{Receipt: text, Objects: [][]byte{terms}}
	named, err := admit.ParseTerms(terms)
	if err != nil {
		return out, domain, err
	}
	for _, o := range named.Objects() {
		b, err := cl.GetObject(ctx, o.Digest)
		if err != nil {
			return out, domain, err
		}
		out.Objects = append(out.Objects, b)
	}
	out.Record, err = cl.ReadArchive(ctx, leaf, note) // last: it serves once
	return out, cl.Domain(), err
}

func (a *app) evidenceExport() *cobra.Command {
	var f reading
	var to string
	c := &cobra.Command{
		Use:   "export TXID --to FILE --domain FILE --member FILE --because LINE",
		Short: "Fetch the archived evidence of an admission, with all that it was judged by",
		Long: `Fetches what a host was admitted by: the archived bundle, the policy, roots, reference sets
and code sets, and the receipt of the admission. TXID is the admission's transaction id, or its
leaf, which is found faster. Only members whom the setting archive-readers names may,
and each reading is on the ledger for good, with its reason.

FILE is personal: it says, in clear, what ran on the machine and whose hardware it is. It
is written for its owner alone, and never over a file that exists.`,
		Example: `  keystead evidence export 12 --to w.archive --domain d.json --member ada.key --because audit-7`,
		Args:    cli.Arguments("TXID"),
	}
	f.add(c)
	c.Flags().StringVar(&to, "to", "", "new `FILE` for it")
	cli.Must(c.MarkFlagRequired("to"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		file, domain, err := f.fetch(args[0])
		if err != nil {
			return err
		}
		raw := file.Bytes()
		if err := cli.CreateFile(to, raw, 0o600); err != nil {
			return err
		}
		answer := struct {
			File    string          `json:"file"`
			Bytes   int             `json:"bytes"`
			Domain  keystead.Digest `json:"domain"`
			Objects int             `json:"objects"`
		}{to, len(raw), domain, len(file.Objects)}
		return a.Answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %d bytes, personal; keystead evidence replay --archive %s --digest %s\n", to, answer.Bytes, to, domain)
		})
	}
	return c
}

func (a *app) evidenceRequest() *cobra.Command {
	var f cli.ClientFlags
	var members []string
	var because, out string
	c := &cobra.Command{
		Use:   "request TXID --because LINE --out FILE --domain FILE [--member FILE]",
		Short: "Write a request to read archived evidence, for several members to sign",
		Long: `Where the setting archive-readers wants more than one member, they sign a request one after
the other (keystead member sign), and one of them hands it in: keystead evidence export or
replay with --reading. It is good for 20 hours, and once.`,
		Example: `  keystead evidence request 12 --because audit-7 --out r --domain d.json --member ada.key
  keystead member sign --key ben.key r
  keystead evidence export 12 --to web-1.archive --domain d.json --reading r`,
		Args: cli.Arguments("TXID"),
	}
	f.Add(c)
	c.Flags().StringArrayVar(&members, "member", nil, "`FILE` with a member's private key; may be repeated")
	c.Flags().StringVar(&because, "because", "", "why, in one `LINE`: it is kept on the ledger")
	c.Flags().StringVar(&out, "out", "", "new `FILE` for the request")
	cli.Must(c.MarkFlagRequired("because"))
	cli.Must(c.MarkFlagRequired("out"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		_, _, p, err := admission(ctx, cl, args[0])
		if err != nil {
			return err
		}
		text, err := cl.Reading(ctx, p.ID, uint64(readingTime.Milliseconds()), because)
		if err != nil {
			return cli.Misuse(err, "")
		}
		note, err := cli.SignWith(text, members)
		if err != nil {
			return err
		}
		if err := cli.CreateFile(out, note, 0o644); err != nil {
			return err
		}
		return a.Answer(map[string]any{"file": out, "transaction_id": p.ID, "signed": len(members)}, func(w io.Writer) {
			fmt.Fprintf(w, "%s: a reading of transaction %s, signed by %d\n", out, p.ID, len(members))
		})
	}
	return c
}

func (a *app) evidenceReplay() *cobra.Command {
	var f reading
	var from string
	c := &cobra.Command{
		Use:   "replay [TXID] --archive FILE --digest DIGEST",
		Short: "Judge an admission again by its archived inputs, and compare bit by bit",
		Long: `Takes the archived inputs of an admission, holds each to its digest on the ledger, judges them
again as of the recorded time, and compares the verdict with the one that a majority of
nodes endorsed, byte by byte. With --archive it needs no connection: only the digest of the
domain's genesis entry is believed. Without, TXID (or the leaf) is fetched first as
keystead evidence export does. Verdicts are the same bytes for the same build: another one
may come to another verdict, which proves nothing, and says so (build-differs).`,
		Example: `  keystead evidence replay --archive web-1.archive --digest $DIGEST
  keystead evidence replay 12 --domain d.json --member ada.key --because audit-7`,
		Args: cobra.MaximumNArgs(1),
	}
	f.add(c)
	c.Flags().StringVar(&from, "archive", "", "`FILE` of keystead evidence export")
	c.RunE = func(_ *cobra.Command, args []string) error {
		file, domain, err := f.inputs(from, args)
		if err != nil {
			return err
		}
		b, err := thisBuild()
		if err != nil {
			return err
		}
		r, err := archive.Replay(receipt.NewVerifier(domain), &file, node.Build(b.String()))
		if err != nil {
			return err
		}
		if len(args) == 1 && args[0] != r.Proven.ID.String() && args[0] != strconv.FormatUint(r.Proven.Index, 10) {
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSubjectMismatch, Where: "archive file", Want: "transaction " + args[0], Got: fmt.Sprintf("%v, leaf %d", r.Proven.ID, r.Proven.Index)})
		}
		answer := struct {
			Same    bool            `json:"same"`
			Host    string          `json:"host"`
			Verdict keystead.Digest `json:"verdict"`
			Time    int64           `json:"time_ms"`
			Build   string          `json:"build"`
			proven
		}{true, r.Host, r.Verdict, r.Time.UnixMilli(), r.Build, provenOf(r.Proven)}
		return a.Answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "same:    verdict %s on host %s, as of %s\nbuild:   %s\n", r.Verdict, cli.Printable(r.Host), r.Time.Format(time.RFC3339Nano), cli.Printable(r.Build))
			answer.print(w)
		})
	}
	return c
}

// inputs reads the file, or fetches what it would hold.
func (f *reading) inputs(from string, args []string) (archive.File, keystead.Digest, error) {
	if from == "" {
		if len(args) == 0 {
			return archive.File{}, keystead.Digest{}, cli.Misuse(errors.New("TXID or --archive is required"), "")
		}
		return f.fetch(args[0])
	}
	raw, err := cli.ReadFile(from, archive.MaxFile)
	if err != nil {
		return archive.File{}, keystead.Digest{}, err
	}
	file, err := archive.ParseFile(raw)
	if err != nil {
		return file, keystead.Digest{}, fmt.Errorf("%s: %w", from, err)
	}
	if f.ClientFlags.Digest == "" && f.Domain == "" {
		return file, keystead.Digest{}, cli.Misuse(errors.New("--digest is required"), "the digest of the domain's genesis entry: keystead domain init printed it")
	}
	if f.Domain == "" {
		digest, err := keystead.ParseDigest(f.ClientFlags.Digest)
		if err != nil {
			return file, digest, cli.Misuse(err, "keystead domain init printed it")
		}
		return file, digest, nil
	}
	_, digest, err := f.ClientFlags.File()
	return file, digest, err
}
