package appcmd

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/cli"
)

const (
	rootLasts = 10 * 365 * 24 * time.Hour
	issueFor  = 90 * 24 * time.Hour
)

func root(a *cli.App) *cobra.Command {
	return a.Noun("root", "Roots: who may say which program an application is",
		`A root issues certificates to applications. It counts in a domain once the terms for hosts name
an object of kind app-roots that has it: for which names, from which level on, on which hosts
and under which users its programs may run.`,
		`  keystead app root create fleet --key root.key --out root.pem
  keystead app root allow billing --cert root.pem --host web-1 --uid 900-999 > apps.txt`,
		rootCreate(a), rootAllow(a))
}

func rootCreate(a *cli.App) *cobra.Command {
	var keyFile, out string
	var lasts time.Duration
	c := &cobra.Command{
		Use:   "create NAME --key FILE --out FILE",
		Short: "Make a root: a key, and its certificate",
		Long: `Makes a key of ECDSA on P-256 and a certificate that it signs itself. The key's file is readable
by its owner only. Neither file is written over one that exists. Whoever has the key can issue
certificates for every name that the domain lets the root vouch for: keep it off the hosts.`,
		Example: `  keystead app root create fleet --key root.key --out root.pem`,
		Args:    cli.Arguments("NAME"),
	}
	c.Flags().StringVar(&keyFile, "key", "", "new `FILE` for the private key")
	c.Flags().StringVar(&out, "out", "", "new `FILE` for the certificate")
	c.Flags().DurationVar(&lasts, "for", rootLasts, "how long it counts")
	cli.Must(c.MarkFlagRequired("key"))
	cli.Must(c.MarkFlagRequired("out"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		v, err := validity(time.Now(), lasts)
		if err != nil {
			return err
		}
		k, err := makeKey(keyFile)
		if err != nil {
			return err
		}
		der, err := app.NewRoot(rand.Reader, k, args[0], v)
		if err == nil {
			err = cli.CreateFile(out, encodeCertificate(der), 0o644)
		}
		if err != nil {
			return errors.Join(cli.Misuse(err, ""), os.Remove(keyFile))
		}
		return answerCertificate(a, args[0], der, out, keyFile)
	}
	return c
}

// answerCertificate answers with a certificate that was made.
func answerCertificate(a *cli.App, name string, der []byte, file, keyFile string) error {
	info, err := app.ReadCertificate(der)
	if err != nil {
		return err
	}
	answer := struct {
		Name    string          `json:"name"`
		Key     keystead.Digest `json:"key"` // of the public key: what a denial names
		Until   int64           `json:"until_ms"`
		File    string          `json:"file"`
		KeyFile string          `json:"key_file"`
	}{name, info.Key, info.Until.UnixMilli(), file, keyFile}
	return a.Answer(answer, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s, key %s, until %s\n", file, answer.Name, answer.Key, info.Until.UTC().Format(time.RFC3339))
	})
}

func rootAllow(a *cli.App) *cobra.Command {
	var cert, level, with string
	var hosts, users []string
	c := &cobra.Command{
		Use:   "allow PREFIX --cert FILE",
		Short: "Write the object app-roots: what a root may vouch for",
		Long: `Prints an object of kind app-roots, in which a root may vouch for the applications whose name is
PREFIX or goes on after it with a slash, or with * for every name. --with adds to the entries of
a file; an entry of the same prefix and certificate is replaced. Members bring it in, and have
the terms for hosts name it, with keystead domain terms set host --app-roots.`,
		Example: `  keystead app root allow billing --cert root.pem --level measured \
      --host web-1 --host web-2 --uid 900-999 > apps.txt
  keystead app root allow '*' --cert other.pem --with apps.txt > both.txt`,
		Args: cli.Arguments("PREFIX"),
	}
	c.Flags().StringVar(&cert, "cert", "", "`FILE` with the root's certificate")
	c.Flags().StringVar(&level, "level", process.Measured.String(), "least `LEVEL` of its applications: peer, measured or launched")
	c.Flags().StringArrayVar(&hosts, "host", nil, "`NAME` of a host that its applications may run on; may be repeated (default: every host)")
	c.Flags().StringArrayVar(&users, "uid", nil, "`FIRST[-LAST]`, numbers of users that they may run as; may be repeated (default: every user)")
	c.Flags().StringVar(&with, "with", "", "`FILE` with the entries that there are")
	cli.Must(c.MarkFlagRequired("cert"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		entry, err := rootEntry(args[0], cert, level, hosts, users)
		if err != nil {
			return err
		}
		var all []app.Root
		if with != "" {
			roots, err := readRoots(with)
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(roots.List(), func(r app.Root) bool {
				return r.Prefix == entry.Prefix && string(r.Certificate) == string(entry.Certificate)
			})
		}
		text, err := app.FormatRoots(append(all, entry))
		if err != nil {
			return cli.Misuse(err, "docs/spec/application.md describes the format")
		}
		answer := struct {
			Digest keystead.Digest `json:"digest"`
			Text   string          `json:"text"`
		}{keystead.Sum(text), string(text)}
		return a.Answer(answer, func(w io.Writer) { w.Write(text) })
	}
	return c
}

func readRoots(file string) (*app.Roots, error) {
	text, err := cli.ReadFile(file, app.MaxRoots)
	if err != nil {
		return nil, err
	}
	roots, err := app.ParseRoots(text)
	if err != nil {
		return nil, cli.Misuse(fmt.Errorf("%s: %w", file, err), "keystead app root allow writes such a file")
	}
	return roots, nil
}

func rootEntry(prefix, cert, level string, hosts, users []string) (r app.Root, err error) {
	r.Prefix = prefix
	if r.Certificate, err = readCertificate(cert); err != nil {
		return r, err
	}
	if r.Least, err = process.ParseLevel(level); err != nil {
		return r, cli.Misuse(fmt.Errorf("--level: %w", err), "")
	}
	r.Hosts = slices.Compact(slices.Sorted(slices.Values(hosts)))
	if len(hosts) == 0 {
		r.Hosts = []string{"*"}
	}
	for _, s := range users {
		first, last, ranged := strings.Cut(s, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 32)
		to, err2 := strconv.ParseUint(last, 10, 32)
		if err != nil || err2 != nil || from > to || to > math.MaxUint32 {
			return r, cli.Misuse(fmt.Errorf("--uid %.40q is neither a number nor FIRST-LAST", s), "")
		}
		r.Users = append(r.Users, app.Users{First: uint32(from), Last: uint32(to)})
	}
	slices.SortFunc(r.Users, func(a, b app.Users) int { return int(int64(a.First) - int64(b.First)) })
	if len(users) == 0 {
		r.Users = []app.Users{app.EveryUser}
	}
	return r, nil
}
