package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/receipt"
)

// domain: members, nodes and hosts around one ledger.
func (a *app) domain() *cobra.Command {
	return a.Noun("domain", "Domains: members and nodes around one ledger",
		`A domain is members, who govern, and nodes, who keep one ledger. Its identity is the
digest of its genesis entry. The domain file holds that entry and where the nodes are;
it may be handed on in the open, and everything in it follows from the digest.`,
		`  keystead domain init demo --local 3 --dir demo
  keystead domain show --domain demo/domain.json`,
		a.domainInit(), a.domainJoin(), a.domainShow(), a.domainSubmit(), a.domainTerms(), a.domainObject(),
	)
}

type domainInit struct {
	members, contacts []string
	threshold         int
	trustDisks        bool
	evidence          string
	local, port       int
	dir, out          string
	tpms              []string
	root              string
	machines          string
	by                yardstick
	nodesBy           yardstick // where nodes are judged otherwise than hosts
	settings          []string  // that name founding terms
	objects           [][]byte  // that founding terms name, and those terms
}

func (a *app) domainInit() *cobra.Command {
	var o domainInit
	c := &cobra.Command{
		Use:   "init NAME",
		Short: "Found a domain",
		Long: `Writes a domain file: the genesis entry with members and founding nodes, and the nodes'
contacts. Each founding member then signs it (keystead member sign), and each node
takes it in (keystead domain join).

With --local everything for N nodes on this machine is made in DIR: a member's key, the
nodes' directories DIR/n1 to DIR/nN, and the signed domain file, taken in. Whoever reaches
these nodes may write under kv/.

--trust-disks founds a domain whose restarted nodes are believed to hold what their
disks hold. Whoever can roll a node's disk back can then undo what it promised; it is
shown wherever the domain's receipts are.

Every node has a TPM that certifies its keys (keystead node init --tpm). --evidence none
founds a domain of nodes that need none: then nothing says which machines hold the
nodes' keys, and that is shown wherever the domain's receipts are. The nodes of --local
have no TPM, so their domain is founded like that, unless --tpm names one for each, or
--machines a directory of practice machines, whose references are then the founding terms.

--policy, --roots, --refs and --codeset make founding terms: by what hosts and nodes are
judged from the start. --node-policy, --node-roots, --node-refs, --node-codeset and so on
stand in their place for nodes, where these are judged otherwise. All are written as objects
beside the domain file, in objects/, from where keystead domain join takes them into a
node's directory.

--roots are those of TPM vendors, and vouch for hardware: a vendor publishes its root, and the
digest to hold it to. What certifies software TPMs (swtpm's own authority, ek-root.pem of practice
machines) belongs to --test-roots, or whoever owns one is taken for any machine. A root that looks
like one is warned of, here and by keystead domain show.`,
		Example: `  keystead domain init demo --local 3 --dir demo
  keystead domain init example --member ops.key.pub --node n1/contact --policy strict \
      --roots vendors.pem --refs host.refs --codeset boot.signed --out domain.json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringArrayVar(&o.members, "member", nil, "a founding member's public `KEY`, or a file with it; may be repeated")
	c.Flags().StringArrayVar(&o.contacts, "node", nil, "contact `FILE` of a founding node; may be repeated")
	c.Flags().IntVar(&o.threshold, "threshold", 1, "how many members must sign a change")
	c.Flags().BoolVar(&o.trustDisks, "trust-disks", false, "believe that a restarted node's disk was not rolled back")
	c.Flags().StringVar(&o.evidence, "evidence", "", "`required` or none: whether nodes must have a TPM (required, but none with --local)")
	c.Flags().IntVar(&o.local, "local", 0, "make `N` nodes on this machine")
	c.Flags().IntVar(&o.port, "port", 7101, "with --local: the first node's peer port; API +100, health +200")
	c.Flags().StringVar(&o.dir, "dir", "", "with --local: the `DIR` to make")
	c.Flags().StringVar(&o.out, "out", "", "the domain `FILE` to write")
	c.Flags().StringArrayVar(&o.tpms, "tpm", nil, "with --local: `PATH` of a node's TPM, one for each node")
	c.Flags().StringVar(&o.root, "machine-root", "/", "with --local and --tpm: `DIR` below which nodes read their logs")
	c.Flags().StringVar(&o.machines, "machines", "", "with --local: `DIR` of practice machines n1, n2, …, each with tpm and root, on which the nodes run")
	o.by.add(c)
	o.nodesBy.addAs(c, "node-", "of nodes alone: ")
	c.RunE = func(_ *cobra.Command, args []string) error {
		if !slices.Contains([]string{"", "required", receipt.EvidenceNone}, o.evidence) {
			return cli.Misuse(fmt.Errorf("--evidence %s is neither required nor none", o.evidence), "")
		}
		o.practise()
		if err := o.found(); err != nil {
			return err
		}
		a.doubtObjects(o.objects...)
		if o.local > 0 {
			if len(o.tpms) > 0 || o.machines != "" {
				return a.initLocal(args[0], o)
			}
			if o.evidence == "required" {
				return cli.Misuse(fmt.Errorf("the nodes of --local have no TPM"), "leave --evidence out, or make each node with keystead node init --tpm")
			}
			o.evidence = receipt.EvidenceNone
			return a.initLocal(args[0], o)
		}
		if o.out == "" {
			return cli.Misuse(fmt.Errorf("--out is required"), "or --local N --dir DIR for a domain on this machine")
		}
		members, err := cli.SignerKeys(o.members)
		if err != nil {
			return err
		}
		var contacts [][]byte
		for _, name := range o.contacts {
			b, err := cli.ReadFile(name, 4096)
			if err != nil {
				return err
			}
			contacts = append(contacts, b)
		}
		file, err := genesis(args[0], members, contacts, o)
		if err != nil {
			return err
		}
		if err := writeObjects(objectsBeside(o.out), o.objects); err != nil {
			return err
		}
		if err := cli.CreateFile(o.out, file.Encode(), 0o644); err != nil {
			return err
		}
		return a.Answer(map[string]string{"file": o.out}, func(w io.Writer) {
			fmt.Fprintf(w, "%s: to be signed by %d of %d members\n%s", o.out, o.threshold, len(members), o.restarts())
		})
	}
	return c
}

// restarts says what becomes of the domain when its nodes start again, for who founds it.
func (o *domainInit) restarts() string {
	switch {
	case o.trustDisks:
		return "restarts: as you like; this domain believes its nodes' disks, and every receipt says so\n"
	case o.evidence == receipt.EvidenceNone:
		return "restarts: in order (SIGTERM), or one node after the other. If a majority is killed at once, the domain is closed until members sign from which disk it goes on (keystead node recover)\n"
	}
	return "restarts: one node after the other. If a majority starts at once, even in order, the domain is closed until members sign the nodes' new keys (keystead node rekey), and if they were killed, from which disk it goes on (keystead node recover)\n"
}

// practise has the practice machines' references make the founding terms, as far as
// nothing else was given.
func (o *domainInit) practise() {
	if o.machines == "" || o.by.given() {
		return
	}
	at := func(name string) string { return filepath.Join(o.machines, name) }
	o.by.policy, o.by.testRoots = "demo", []string{at(practice.EKRoot)}
	o.by.refs, o.by.codeSets = []string{at(practice.Reference)}, []string{at(practice.CodeSet)}
}

// found makes founding terms of what was given, and their objects.
func (o *domainInit) found() error {
	if !o.by.given() && !o.nodesBy.given() {
		return nil
	}
	for _, of := range []struct {
		role string
		by   yardstick
	}{{admit.RoleHost, o.by}, {admit.RoleNode, o.nodesBy.or(o.by)}} {
		if !of.by.given() { // a domain without hosts, as yet
			continue
		}
		parts, err := of.by.parts()
		if err != nil {
			return err
		}
		for _, p := range parts {
			o.keep(p.content)
		}
		t := terms(of.role, parts)
		text, err := t.Text()
		if err != nil {
			return cli.Misuse(err, "")
		}
		o.keep(text)
		o.settings = append(o.settings, admit.FoundingTerms(of.role, text))
	}
	return nil
}

// keep adds a founding object, once.
func (o *domainInit) keep(content []byte) {
	if !slices.ContainsFunc(o.objects, func(b []byte) bool { return string(b) == string(content) }) {
		o.objects = append(o.objects, content)
	}
}

// genesis makes the unsigned domain file.
func genesis(name string, members []key.MemberPublic, contacts [][]byte, o domainInit) (*client.Domain, error) {
	g := receipt.Genesis{Name: name, Created: uint64(time.Now().UnixMilli()), Roster: receipt.Roster{Threshold: o.threshold, Members: members}}
	g.Settings = append(g.Settings, o.settings...)
	g.Settings = append(g.Settings, admit.FoundingVersion())
	if o.trustDisks {
		g.Settings = append(g.Settings, receipt.TrustDisks+"=true")
	}
	if o.evidence == receipt.EvidenceNone {
		g.Settings = append(g.Settings, receipt.Evidence+"="+receipt.EvidenceNone)
	}
	for _, signed := range contacts {
		c, err := client.OpenContact(signed)
		if err != nil {
			return nil, cli.Misuse(err, "")
		}
		if c.AK.None() && g.AsksEvidence() {
			return nil, cli.Misuse(fmt.Errorf("the contact of node %s names no TPM", c.Name), "keystead node init --tpm makes one that does; --evidence none founds a domain that asks for none")
		}
		g.Roster.Nodes = append(g.Roster.Nodes, c.Node())
	}
	text, err := g.Text()
	if err != nil {
		return nil, cli.Misuse(err, "")
	}
	return &client.Domain{Genesis: text, Contacts: contacts}, nil
}

// initLocal makes a whole domain on this machine, or leaves its directory as it was.
func (a *app) initLocal(name string, o domainInit) (err error) {
	if o.dir == "" || o.local > 9 {
		return cli.Misuse(fmt.Errorf("--local wants --dir DIR, and at most 9 nodes"), "")
	}
	if o.machines != "" && len(o.tpms) > 0 {
		return cli.Misuse(fmt.Errorf("--machines and --tpm both say where the nodes' TPMs are"), "")
	}
	if len(o.tpms) > 0 && (len(o.tpms) != o.local || len(o.settings) == 0) {
		return cli.Misuse(fmt.Errorf("--tpm stands once for each node, together with founding terms"), "--policy and --roots say by what nodes judge each other")
	}
	undo := conf.Making(o.dir)
	defer func() {
		if err != nil {
			undo()
		}
	}()
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return cli.Misuse(err, "")
	}
	m, err := key.NewMember(rand.Reader, name+".member")
	if err != nil {
		return cli.Misuse(err, "")
	}
	if err := cli.CreateFile(filepath.Join(o.dir, "member.key"), m.Encode(), 0o600); err != nil {
		return err
	}
	var contacts [][]byte
	var dirs []string
	for i := range o.local {
		address := func(offset int) string { return fmt.Sprintf("127.0.0.1:%d", o.port+i+offset) }
		p := node.Place{OpenWrites: true, Name: fmt.Sprintf("n%d", i+1), Peer: address(0), API: address(100), Ops: address(200)}
		switch {
		case o.machines != "":
			machine := filepath.Join(o.machines, p.Name)
			p.TPM, p.Root, p.Note = filepath.Join(machine, practice.TPM), filepath.Join(machine, practice.Root), "a practice machine"
		case len(o.tpms) > 0:
			p.TPM, p.Root = o.tpms[i], o.root
		}
		dirs = append(dirs, filepath.Join(o.dir, p.Name))
		contact, err := prepare(dirs[i], p)
		if err != nil {
			return err
		}
		contacts = append(contacts, contact)
	}
	file, err := genesis(name, []key.MemberPublic{m.Public()}, contacts, o)
	if err != nil {
		return err
	}
	if file.Genesis, err = m.Sign(file.Genesis); err != nil {
		return err
	}
	out := filepath.Join(o.dir, "domain.json")
	if err := cli.CreateFile(out, file.Encode(), 0o644); err != nil {
		return err
	}
	if err := writeObjects(objectsBeside(out), o.objects); err != nil {
		return err
	}
	entry, err := receipt.NoteEntry(file.Genesis)
	if err != nil {
		return err
	}
	digest := keystead.Sum(entry)
	for _, dir := range dirs {
		if err := enter(dir, file, digest, o.objects); err != nil {
			return err
		}
	}
	answer := struct {
		Domain keystead.Digest `json:"domain"`
		File   string          `json:"file"`
		Nodes  []string        `json:"nodes"`
	}{digest, out, dirs}
	return a.Answer(answer, func(w io.Writer) {
		fmt.Fprintf(w, "domain: %s\nfile:   %s\nwrites: open to whoever reaches the nodes, as api.open-writes of their configurations says\n%s", digest, out, o.restarts())
		for _, d := range dirs {
			fmt.Fprintf(w, "run:    keystead node run --config %s\n", filepath.Join(d, node.ConfigFile))
		}
	})
}

func (a *app) domainJoin() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:   "join DIR --domain FILE [--digest DIGEST]",
		Short: "Tell a node's directory which domain it belongs to",
		Long: `Puts the domain file into a node's directory and the domain's digest into its
configuration. A founding node takes the file that its members signed; a node that was
added later (keystead node add) fetches the newest contacts on the way, if a node of
the domain answers. Founding objects beside the domain file, in objects/, are taken along.`,
		Example: `  keystead domain join n4 --domain demo/domain.json`,
		Args:    cobra.ExactArgs(1),
	}
	f.Add(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		file, digest, err := f.File()
		if err != nil {
			return err
		}
		if cl, ctx, done, err := f.Open(); err == nil {
			if v, err := cl.Show(ctx); err == nil {
				file = merged(file, v.File)
			}
			done()
		}
		objects, err := readObjects(objectsBeside(f.Domain))
		if err != nil {
			return err
		}
		if err := enter(args[0], file, digest, objects); err != nil {
			return err
		}
		return a.Answer(map[string]any{"domain": digest, "directory": args[0]}, func(w io.Writer) {
			fmt.Fprintf(w, "%s belongs to %s\nrun: keystead node run --config %s\n", args[0], digest, filepath.Join(args[0], node.ConfigFile))
		})
	}
	return c
}

// enter takes a domain and its founding objects into a node's directory.
func enter(dir string, file *client.Domain, digest keystead.Digest, objects [][]byte) error {
	if err := node.Enter(dir, file, digest); err != nil {
		return err
	}
	for _, o := range objects {
		if err := node.PutObject(dir, o); err != nil {
			return err
		}
	}
	return nil
}

// merged adds newer contacts to those of a file; a later one of a name counts.
func merged(file, newer *client.Domain) *client.Domain {
	return &client.Domain{Genesis: file.Genesis, Contacts: append(append([][]byte{}, file.Contacts...), newer.Contacts...)}
}

func (a *app) domainShow() *cobra.Command {
	var f cli.ClientFlags
	c := &cobra.Command{
		Use:   "show --domain FILE",
		Short: "Show members and nodes, verified from the genesis digest",
		Long: `Fetches the chain of rosters from a node, verifies it from the genesis digest, and
shows who makes up the domain now. That there is no newer roster is the node's word. It warns
where software TPMs are accepted, or roots that look like theirs are taken for vendors'.`,
		Example: `  keystead domain show --domain demo/domain.json`,
		Args:    cobra.NoArgs,
	}
	f.Add(c)
	c.RunE = func(*cobra.Command, []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		v, err := cl.Show(ctx)
		if err != nil {
			return err
		}
		type shownNode struct {
			Name string `json:"name"`
			Key  string `json:"key"`
			AK   string `json:"attestation"`
			API  string `json:"api,omitempty"`
			Peer string `json:"peer,omitempty"`
		}
		answer := struct {
			Name      string             `json:"name"`
			Domain    keystead.Digest    `json:"domain"`
			Settings  []string           `json:"settings"`
			Sequence  uint64             `json:"roster"`
			Threshold int                `json:"threshold"`
			Members   []key.MemberPublic `json:"members"`
			Nodes     []shownNode        `json:"nodes"`
			Warnings  []string           `json:"warnings"`
		}{v.Genesis.Name, v.Domain, append([]string{}, v.Genesis.Settings...), v.Sequence, v.Roster.Threshold, v.Roster.Members, nil, append([]string{}, doubtsOf(ctx, cl)...)}
		a.warn(answer.Warnings...)
		for _, n := range v.Roster.Nodes {
			contact := v.Contacts[n.Name]
			answer.Nodes = append(answer.Nodes, shownNode{n.Name, n.Key.String(), n.AK.String(), contact.API, contact.Peer})
		}
		return a.Answer(answer, func(w io.Writer) {
			fmt.Fprintf(w, "domain:   %s\ndigest:   %s\nsettings: %s\nroster:   %d\nmembers:  %d of %d sign\n", v.Genesis.Name, v.Domain,
				strings.Join(v.Genesis.Settings, " "), v.Sequence, v.Roster.Threshold, len(v.Roster.Members))
			for _, m := range v.Roster.Members {
				fmt.Fprintf(w, "  %s\n", m)
			}
			fmt.Fprintf(w, "nodes:    %d, of which %d make a majority\n", len(v.Roster.Nodes), v.Roster.Majority())
			for _, n := range answer.Nodes {
				fmt.Fprintf(w, "  %s %s %s %s\n", n.Name, n.Key, n.AK, n.API)
			}
		})
	}
	return c
}
