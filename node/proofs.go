package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger/heads"
)

// proofsDir keeps the evidence against nodes that are proven bad, a file each. This node
// trusts it as it does the rest of its directory.
const proofsDir = "proofs"

// proofFile is what a file holds: enough for anybody to check both signatures.
type proofFile struct {
	Version int      `json:"keystead-proof"`
	Node    string   `json:"node"`
	Key     string   `json:"key"`
	Signed  [][]byte `json:"signed"` // two statements, in base64
	Says    string   `json:"says"`
}

const maxProof = 16 << 10 // bytes

func saveProof(dir string, p *heads.Proof) error {
	if err := os.MkdirAll(filepath.Join(dir, proofsDir), 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(proofFile{1, p.Node, p.Key.String(), [][]byte{p.First.Bytes(), p.Second.Bytes()}, p.String()}, "", "  ")
	if err != nil {
		return err
	}
	err = conf.WriteNew(filepath.Join(dir, proofsDir, fmt.Sprintf("%s-%x.json", p.Node, p.Key[:8])), append(b, '\n'))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// loadProofs reads what saveProof wrote. What is signed must verify under its key.
func loadProofs(dir string) (out []*heads.Proof, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, proofsDir, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		p, err := loadProof(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func loadProof(path string) (*heads.Proof, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxProof {
		err = fmt.Errorf("has %d bytes, at most %d are read", info.Size(), maxProof)
	}
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f proofFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if f.Version != 1 || len(f.Signed) != 2 {
		return nil, errors.New("is no proof of version 1 with two statements")
	}
	p := &heads.Proof{Node: f.Node}
	if p.Key, err = key.ParseNodePublic(f.Key); err != nil {
		return nil, err
	}
	for i, s := range []*heads.Statement{&p.First, &p.Second} {
		if *s, err = heads.Parse(f.Signed[i]); err != nil {
			return nil, err
		}
		if s.Node != f.Node || !s.Verify(p.Key, s.Tree.Domain) {
			return nil, fmt.Errorf("statement %d is not signed by that node's key", i+1)
		}
	}
	return p, nil
}
