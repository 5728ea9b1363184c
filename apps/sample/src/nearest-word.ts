/**
 * The known word that was probably meant: it differs in the fewest letters, at most two or a third of them, or begins with
 * what was written.
 *
 * @example
 * nearest('prot', ['host', 'port']) // 'port'
 */
export function nearest(written: string, known: readonly string[]): string | undefined {
  const wanted = written.slice(0, 64).toLowerCase()
  const [best] = known
    .map((candidate) => ({ candidate, away: distance(wanted, candidate.toLowerCase()) }))
    .filter(
      ({ candidate, away }) =>
        away <= Math.max(2, candidate.length / 3) || (wanted.length > 2 && candidate.toLowerCase().startsWith(wanted))
    )
    .toSorted((one, other) => one.away - other.away)
  return best?.candidate
}

/** Letters to put in, take out or change. */
function distance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index)
  for (const [index, letter] of Array.from(one).entries()) {
    const next = [index + 1]
    for (const [place, wanted] of Array.from(other).entries()) {
      const changed = (row[place] as number) + (letter === wanted ? 0 : 1)
      next.push(Math.min(changed, (row[place + 1] as number) + 1, (next[place] as number) + 1))
    }
    row = next
  }
  return row[other.length] as number
}
