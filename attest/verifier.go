package attest

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
)

// Terms are by what a peer is judged.
type Terms struct {
	// Name is what the verifier calls the peer.
	Name string
	// Input is all of the appraisal but bundle, expected binding and key.
	Input appraise.Input
	// Turn, if not nil, is waited for before evidence is judged whose root of trust holds:
	// what the TPM did not sign is refused before, for anybody may send it in its name.
	Turn func(ctx context.Context) (end func(), err error)
}

// An Appraiser is the [Verifier] of peers with a TPM, and of hosts with a TEE alone where
// the terms name roots of TEEs. Attestation keys that it has accepted by credential
// activation it accepts as long as it lives. Make it by
// NewAppraiser.
type Appraiser struct {
	terms func(context.Context, keystead.Digest) (Terms, error)

	mu       sync.Mutex
	accepted map[keystead.Digest]knownKey // by hardware identity: the latest
}

// knownKey is an accepted key with the keys that were activated.
type knownKey struct {
	keys evidence.TPMKeys
	key  appraise.AcceptedKey
}

// maxKnown bounds what an Appraiser remembers; a TPM that is forgotten activates anew.
const maxKnown = 1 << 17

// NewAppraiser returns a verifier that asks terms by which it is to judge the machine
// with that hardware identity ([Peer.Identity]), before it has proven to be that one. An
// error of terms refuses the peer: a *keystead.DenyError, such as for an identity that
// nobody enrolled, in its own words.
func NewAppraiser(terms func(ctx context.Context, identity keystead.Digest) (Terms, error)) *Appraiser {
	return &Appraiser{terms: terms, accepted: map[keystead.Digest]knownKey{}}
}

// Challenge implements Verifier.
func (a *Appraiser) Challenge(ctx context.Context, keys evidence.TPMKeys) (*appraise.Activation, error) {
	id, terms, err := a.find(ctx, keys)
	if err != nil || !keys.TEE.IsZero() { // the key that signs is the certified one: there is nothing to activate
		return nil, err
	}
	if k := a.known(id); sameKeys(k.keys, keys) {
		return nil, nil
	}
	return appraise.Challenge(rand.Reader, keys, terms.Input.EKRoots, terms.Input.Time)
}

// Verify implements Verifier.
func (a *Appraiser) Verify(ctx context.Context, c Claim) (string, appraise.Verdict, error) {
	id, terms, err := a.find(ctx, c.Keys)
	if err != nil {
		return "", appraise.Verdict{}, err
	}
	var key appraise.AcceptedKey
	if c.Keys.TEE.IsZero() {
		if key, err = a.accept(id, c, terms); err != nil {
			return "", appraise.Verdict{}, err
		}
	}
	in := terms.Input
	in.Bundle, in.Expect, in.Key = c.Bundle, c.Expect, key
	if terms.Turn != nil && appraise.Rooted(in) {
		end, err := terms.Turn(ctx)
		if err != nil {
			return "", appraise.Verdict{}, err
		}
		defer end()
	}
	v := appraise.Appraise(in)
	if err = v.Err(); err == nil && !c.Keys.TEE.IsZero() {
		_, err = shown(v, c.Keys.TEE)
	}
	return terms.Name, v, err
}

// Accepted returns the attestation key that the TPM of that identity activated last;
// the zero key if it did not.
func (a *Appraiser) Accepted(identity keystead.Digest) appraise.AcceptedKey {
	return a.known(identity).key
}

// find asks for the terms of whoever says to be that hardware.
func (a *Appraiser) find(ctx context.Context, keys evidence.TPMKeys) (keystead.Digest, Terms, error) {
	id, err := Identity(keys)
	if err != nil {
		return id, Terms{}, err
	}
	terms, err := a.terms(ctx, id)
	return id, terms, err
}

// Identity is the hardware identity that a peer introduces itself by ([Peer.Identity]),
// before it has shown anything.
func Identity(keys evidence.TPMKeys) (keystead.Digest, error) {
	if !keys.TEE.IsZero() {
		return keys.TEE.Identity(), nil
	}
	ek, err := tpm2.ParsePublic(keys.EKPublic)
	return ek.Fingerprint(), err
}

// accept returns the accepted key of a claim: the one that answered the challenge, or
// the one known from before.
func (a *Appraiser) accept(id keystead.Digest, c Claim, t Terms) (appraise.AcceptedKey, error) {
	if c.Activation == nil {
		if k := a.known(id); sameKeys(k.keys, c.Keys) {
			return k.key, nil
		}
		return appraise.AcceptedKey{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonAKUnbound, Where: "attestation key", Want: "an activated key", Got: "one that was forgotten meanwhile: connect again"})
	}
	if !sameKeys(c.Activation.Keys, c.Keys) { // the identity and the terms are of the claim's
		return appraise.AcceptedKey{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonAKUnbound, Where: "attestation key", Want: "an activation of the keys introduced", Got: "one of other keys"})
	}
	key, err := c.Activation.Accept(c.Answer, t.Input.Time)
	if err != nil {
		return key, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.accepted[id]; !ok && len(a.accepted) >= maxKnown {
		for other := range a.accepted { // any of them
			delete(a.accepted, other)
			break
		}
	}
	a.accepted[id] = knownKey{c.Keys, key}
	return key, nil
}

func (a *Appraiser) known(id keystead.Digest) knownKey {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.accepted[id]
}

// sameKeys is false for no keys at all.
func sameKeys(a, b evidence.TPMKeys) bool {
	return len(a.AKPublic) > 0 && slices.Equal(a.AKPublic, b.AKPublic) && slices.Equal(a.EKPublic, b.EKPublic) &&
		slices.EqualFunc(a.EKCertificate, b.EKCertificate, slices.Equal)
}
