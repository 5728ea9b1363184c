import { seededRandom } from '@millrace/testkit'

/** One conversation to be answered. */
export interface Conversation {
  /** When it begins, counted from the start of the workload. */
  readonly startMs: number
  readonly messages: readonly { readonly role: 'system' | 'user' | 'assistant'; readonly content: string }[]
}

const system = `You help customers of a bicycle workshop. Be brief and practical. Say what to check first, what it usually costs, and when a mechanic must look at it. Never advise riding with a broken brake, fork or handlebar. If a part number is needed, say where on the bicycle it stands. If you do not know, say so and name the person to ask. Prices are in euros and include tax. The workshop is open from Tuesday to Saturday.`

/** What customers ask, the common first: real workloads repeat themselves, a few questions most of all. */
const questions: readonly string[] = [
  'My chain skips when I pedal uphill. What should I check first?',
  'How often should I replace my brake pads if I ride 60 km a week in the city?',
  'What tyre pressure do you recommend for 32 mm tyres and a rider of 75 kg?',
  'My disc brake squeals after riding in the rain. Is that dangerous?',
  'How do I fix a puncture on the rear wheel without getting my hands full of grease?',
  'What does a full service cost and how long does it take?',
  'My gears shift by themselves between the third and the fourth. How do I adjust the cable?',
  'Can I put a child seat on a carbon frame?',
  'The bottom bracket creaks when I stand up on the pedals. What can it be?',
  'Which lubricant is right for a winter commute on salted roads?',
  'How do I know when a chain is worn, and must the cassette be replaced with it?',
  'My e-bike shows error code 500. Can I still ride home?',
  'How tight should the bolts of a stem be, and do I need a torque wrench?',
  'Is it worth repairing a buckled wheel or should I buy a new one?',
  'What lights does the law require on a bicycle at night?',
  'How do I store a bicycle over the winter on a balcony?',
  'My saddle hurts after half an hour. What should I change first?',
  'Can I convert my bicycle from rim brakes to disc brakes?',
  'How do I remove a pedal that is stuck?',
  'What is the difference between a hydraulic and a mechanical disc brake?',
  'How do I set the saddle height without help?',
  'My tubeless tyre loses air overnight. What do I check?',
  'How long does the battery of an e-bike last, and can it be replaced?',
  'Which lock do insurers ask for on a bicycle worth 2,000 euros?',
  'Can you straighten a bent derailleur hanger while I wait?',
  'How do I clean a drivetrain without harming the bearings?',
  'What size of frame do I need if I am 1.82 m tall?',
  'My headset has play when I brake. Is it safe to ride?',
  'Do I have to bleed my brakes every year?',
  'How do I take a bicycle on a train in a bag?',
  'Which helmet fits a head of 61 cm?',
  'Is a belt drive better than a chain for a commuter?',
  'What should be in a tool kit for a week of touring?',
  'Can I pump up a tyre with a car pump?',
  'My wheel does not run true after I hit a kerb. What now?',
  'How do I stop my bicycle computer from losing its signal?'
]

/** Talks that have gone on for a while: their beginning costs tokens at every turn. */
const talks: readonly (readonly string[])[] = [
  [
    'I want to build a touring bicycle from an old steel frame. Where do I begin?',
    'The frame has horizontal dropouts and a spacing of 126 mm at the rear. Which hubs fit?',
    'Could the frame be spread to 130 mm without harm?',
    'Which gears would let me climb with 20 kg of luggage?',
    'Do cantilever brakes stop such a load in the rain?',
    'What would all of it cost, part by part?'
  ],
  [
    'My daughter is nine and has outgrown her bicycle. What size comes next?',
    'She is 1.36 m tall and rides to school, 3 km each way, with one steep hill. How many gears?',
    'Is a suspension fork worth its weight for her?',
    'Which lights can she switch on without help?',
    'What does a used one of good quality cost?'
  ]
]

/** What the assistant is taken to have said in a talk so far; as long as such answers are. */
const earlierAnswer = `Start with what you can see and feel. Turn the bicycle over, spin the wheels and listen; then try each lever and look for play. Most of what goes wrong begins with dirt, with a cable that has stretched, or with a bolt that has worked loose, and all three cost little when they are found early. If you find none of them, note what you saw, at which speed and under which load it happened, and bring the bicycle in on a weekday morning, when there is time to look at it with you. Parts of common sizes are on the shelf; others take three to five working days. We give you a price before we begin, and we call before we go beyond it.`

export interface WorkloadOptions {
  readonly calls: number
  /** How many begin in a second, on average. */
  readonly perSecond: number
  /** The same seed gives the same workload. @default 7 */
  readonly seed?: number
}

/**
 * Customers' questions in the order they come in, at random times (a Poisson process). How often each is asked falls with
 * its rank (Zipf, exponent 1), as it does in recorded workloads; every eighth call continues a long talk.
 */
export function createWorkload({ calls, perSecond, seed = 7 }: WorkloadOptions): readonly Conversation[] {
  const random = seededRandom(seed)
  const weights = questions.map((_, rank) => 1 / (rank + 1))
  const sum = weights.reduce((total, weight) => total + weight, 0)

  function pickQuestion(): string {
    let point = random() * sum
    for (const [rank, question] of questions.entries()) {
      point -= weights[rank] as number
      if (point <= 0) return question
    }
    return questions.at(-1) as string
  }

  let startMs = 0
  return Array.from({ length: calls }, (_, call): Conversation => {
    startMs += (-Math.log(1 - random()) / perSecond) * 1000
    const opening = { role: 'system', content: system } as const
    if (call % 8 !== 7) return { startMs, messages: [opening, { role: 'user', content: pickQuestion() }] }
    const talk = talks[Math.floor(random() * talks.length)] as readonly string[]
    const turn = 1 + Math.floor(random() * (talk.length - 1))
    const history = talk.slice(0, turn).flatMap((content) => [
      { role: 'user' as const, content },
      { role: 'assistant' as const, content: earlierAnswer }
    ])
    return { startMs, messages: [opening, ...history, { role: 'user', content: talk[turn] as string }] }
  })
}
