// Keys, web tokens and authorization. No text makes any of these shapes slow: each takes the whole run it stands in, so that
// nothing is looked at again and nothing of a long one is left.
const tokens = [
  // Names in code begin so too: `sk_buff_head`.
  /(?:sk|pk|rk)[-_](?=[\w-]*\d|[\w-]{20})[\w-]{8,}/,
  /(?:gsk|xai|nvapi|pplx|xox[a-z])[-_][\w-]{8,}/,
  /(?:glpat-|npm_)[\w-]{16,}/,
  /SG\.[\w-]{16,}\.[\w-]{16,}/,
  /AIza[\w-]{30,}/,
  /(?:(?:hf|r8|gh[oprsu])_[a-z\d]{16}|github_pat_\w{16})\w*/,
  /A[KS]IA(?=[a-z]{0,15}\d)[a-z\d]{16,}/,
  /ya29\.[\w.-]{16,}/,
  // Its beginning is enough: where a text is cut, the rest is not there.
  /eyJ[\w-]{8,}(?:\.[\w-]*){0,4}/,
  /(bearer|basic)(?:\s|%20|\\[nrt])+([\w.~+/=-]{8,})/
]
// Not within a word, but behind an escape of JSON, of a URL or of a terminal, such as `\n`, `\u000a`, `%3D` or `[32m`, whose last
// letter belongs to none.
const beginning = /(?<!(?<!\\(?:u[\da-f]{3})?|%[\da-f]|\[[\d;]{0,12})[a-z\d])/
const query = /((?:[?&#]|\\u0026)[\w-]*(?:key|token|sig|signature|secret|password)=)[^&\s"'\\]+/
// Up to the last @, for a password may have one.
const userinfo = /(:\/\/)[^\s/?#"']{1,1000}(?=@)/

const shapes = new RegExp(
  `${beginning.source}(?:${tokens.map(({ source }) => source).join('|')})|${query.source}|${userinfo.source}`,
  'gi'
)

/**
 * `text` with `[redacted]` in place of what looks like a credential: API keys of the known providers, bearer and basic
 * authorization, JSON web tokens, keys in a query, names and passwords in a URL, also within JSON. It knows shapes, not
 * secrets: what looks like nothing goes through, and a word behind `bearer` or `basic` is a word, unless `authorization`
 * stands before.
 *
 * @example
 * redactCredentials('Incorrect API key provided: sk-proj-0123456789')
 */
export function redactCredentials(text: string): string {
  return text.replace(
    shapes,
    (match, scheme?: string, token?: string, name: string = '', slashes: string = '', at: number = 0) => {
      if (scheme === undefined || token === undefined) return `${name}${slashes}[redacted]`
      const before = text.slice(Math.max(0, at - 24), at)
      if (!isProse(scheme, token) || /authorization\W{1,8}$/i.test(before)) return '[redacted]'
      return match.slice(0, -token.length) + redactCredentials(token)
    }
  )
}

/** Whether it goes on in words, as in `basic arithmetic`, `Basic JavaScript`, `basic 2024/2025` and `a bearer instrument.` */
function isProse(scheme: string, token: string): boolean {
  const hasBoth = /\d/.test(token) && /[a-z]/i.test(token)
  const turns = token.match(/[a-z][A-Z]/g)?.length ?? 0
  if (hasBoth || token.endsWith('=') || turns > 1) return false
  // Words are put together by marks; a run of letters without any is one word.
  const longest = scheme.length === 'basic'.length ? 24 : 17
  return token.split(/[^a-z\d]+/i).every((word) => word.length <= longest)
}
