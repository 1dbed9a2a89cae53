package appcmd

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/internal/cli"
)

// launchedPath is how the kernel's log of executed files calls the copy that keystead run
// launches.
const launchedPath = "/memfd:keystead-application"

func sign(a *cli.App) *cobra.Command {
	var name, cert, keyFile, out, version string
	var libraries, dirs []string
	c := &cobra.Command{
		Use:   "sign BIN --name NAME --cert FILE --key FILE --out FILE",
		Short: "Put an application's signature into its program",
		Long: `Writes a copy of the program (ELF, 64 bits) that carries its signature, in a section that nothing
loads. The signature covers the whole file, the read-only memory that it has once it runs, and
the names of its libraries: the loader, what the program needs, and what those need in turn, as
they lie on this machine. A library that the program opens by itself is named with --library. A
program that is signed already is signed anew.

The answer is the line of a code set that keeps a host admitted which runs the program: the kernel
logs the file, or the copy of it that is launched, by the digest of the signed file.`,
		Example: `  keystead app sign billing --name billing --cert billing.pem --key billing.key --out billing.signed
  keystead app sign billing --name billing --cert billing.pem --key billing.key \
      --library libnss_files.so.2 --program-version 1.2.0 --out billing.signed`,
		Args: cli.Arguments("BIN"),
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "`NAME` of the application, as in its certificate")
	f.StringVar(&cert, "cert", "", "`FILE` with the application's certificate")
	f.StringVar(&keyFile, "key", "", "`FILE` with its private key")
	f.StringVar(&out, "out", "", "`FILE` for the signed program")
	f.StringVar(&version, "program-version", "1", "`VERSION` in the line of the code set")
	f.StringArrayVar(&libraries, "library", nil, "`NAME` of a library that the program opens by itself; may be repeated")
	f.StringArrayVar(&dirs, "library-dir", nil, "`DIR` to look for libraries in, before those of the system; may be repeated")
	for _, required := range []string{"name", "cert", "key", "out"} {
		cli.Must(c.MarkFlagRequired(required))
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		s := app.Signing{Name: name}
		var err error
		if s.Certificate, err = readCertificate(cert); err != nil {
			return err
		}
		if s.Key, err = readKey(keyFile); err != nil {
			return err
		}
		if strings.ContainsAny(version, " \t\n") || version == "" {
			return cli.Misuse(fmt.Errorf("--program-version %.40q is no word", version), "")
		}
		signed, err := signFile(args[0], out, s, libraries, dirs)
		if err != nil {
			return err
		}
		answer := struct {
			Name      string          `json:"name"`
			File      string          `json:"file"`
			Program   keystead.Digest `json:"program"` // before it was signed
			Signed    keystead.Digest `json:"signed"`  // the file that was written
			Libraries []string        `json:"libraries"`
			CodeSet   string          `json:"codeset"` // a line
		}{name, out, signed.note.File, signed.digest, append([]string{}, signed.note.Libraries...),
			fmt.Sprintf("file %s %s %s", signed.digest, launchedPath+"/"+name, version)}
		return a.Answer(answer, func(w io.Writer) { fmt.Fprintln(w, answer.CodeSet) })
	}
	return c
}

// signedFile is what was written.
type signedFile struct {
	note   *app.Note
	digest keystead.Digest
}

func signFile(from, to string, s app.Signing, further, dirs []string) (out signedFile, err error) {
	f, size, err := openProgram(from)
	if err != nil {
		return out, err
	}
	defer f.Close()
	var content io.ReaderAt = f
	switch p, err := app.Parse(f, size); {
	case err == nil:
		content, size = p.Unsigned(), p.Unsigned().Size()
	case !errors.Is(err, keystead.ReasonAppUnsigned):
		return out, err
	}
	image, err := app.ParseImage(content, size)
	if err != nil {
		return out, err
	}
	if s.Libraries, err = app.Closure(image, further, finder(dirs)); err != nil {
		return out, err
	}
	patch, err := app.Sign(rand.Reader, content, size, s)
	if err != nil {
		return out, err
	}
	w, err := cli.OpenOutput(to)
	if err != nil {
		return out, err
	}
	defer w.Discard()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, h), patch.Signed(content).Reader()); err != nil {
		return out, fmt.Errorf("%s: %w", to, err)
	}
	out.note = patch.Note
	h.Sum(out.digest[:0])
	return out, w.Commit(nil, 0o755)
}

func openProgram(name string) (*os.File, int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, cli.Misuse(err, "")
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = cli.Misuse(fmt.Errorf("%s is no regular file", name), "")
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// systemDirs are where loaders of common distributions look.
var systemDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"}

// finder looks libraries up by name, and loaders by path.
func finder(dirs []string) func(string) (*app.Image, error) {
	return func(name string) (*app.Image, error) {
		path := name
		if !filepath.IsAbs(name) {
			for _, dir := range append(append([]string{}, dirs...), systemDirs...) {
				if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
					path = filepath.Join(dir, name)
					break
				}
			}
		}
		if !filepath.IsAbs(path) {
			return nil, cli.Misuse(fmt.Errorf("the library %s is in none of the usual directories", name), "--library-dir names further ones")
		}
		f, size, err := openProgram(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return app.ParseImage(f, size)
	}
}

func verify(a *cli.App) *cobra.Command {
	var f cli.ClientFlags
	var rootsFile string
	c := &cobra.Command{
		Use:   "verify BIN (--roots FILE | --domain FILE)",
		Short: "Hold a signed program to roots",
		Long: `Reads a signed program and holds its file to its signature, and its certificate to the roots of a
file or, with --domain, of a domain's terms, with the domain's denials. What runs in a process,
this says nothing of: agents measure that.`,
		Example: `  keystead app verify billing.signed --roots apps.txt
  keystead app verify billing.signed --domain d.json`,
		Args: cli.Arguments("BIN"),
	}
	f.Add(c)
	c.Flags().StringVar(&rootsFile, "roots", "", "`FILE` with an object app-roots (keystead app root allow)")
	c.RunE = func(_ *cobra.Command, args []string) error {
		file, size, err := openProgram(args[0])
		if err != nil {
			return err
		}
		defer file.Close()
		p, err := app.Parse(file, size)
		if err != nil {
			return err
		}
		m, err := p.FileMeasured()
		if err != nil {
			return err
		}
		id, err := identify(&f, rootsFile, p, m)
		if err != nil {
			return err
		}
		info, err := app.ReadCertificate(p.Note.Certificate)
		if err != nil {
			return err
		}
		answer := struct {
			Name      string          `json:"name"`
			Program   keystead.Digest `json:"program"`
			Text      keystead.Digest `json:"text"`
			Key       keystead.Digest `json:"key"`
			Until     int64           `json:"until_ms"`
			Libraries []string        `json:"libraries"`
		}{id.Name(), m.File, m.Text, id.Key(), info.Until.UnixMilli(), append([]string{}, p.Note.Libraries...)}
		return a.Answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "application: %s\nprogram:     %s\ncertificate: key %s, until %s\n", answer.Name, answer.Program, answer.Key, info.Until.UTC().Format(time.RFC3339))
			for _, l := range answer.Libraries {
				fmt.Fprintf(w, "library:     %s\n", l)
			}
		})
	}
	return c
}

func identify(f *cli.ClientFlags, rootsFile string, p *app.Program, m app.Measured) (app.Identity, error) {
	if rootsFile != "" {
		roots, err := readRoots(rootsFile)
		if err != nil {
			return app.Identity{}, err
		}
		return p.Verify(m, roots, func(keystead.Digest) bool { return false }, time.Now())
	}
	d, done, err := openDomain(f)
	if err != nil {
		return app.Identity{}, err
	}
	defer done()
	return d.verify(p, m)
}
