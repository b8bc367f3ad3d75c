"""Three subjects of small facts for a recipe without a hosted model: sums, capitals, French words.

For: questions of novices with a right and a wrong answer each, in plain English with capitals, such as a real small
model can learn. Not part of the toy world: no persona speaks of them. Invariant: a subject's keys have one value each.
"""

from collections.abc import Mapping
from types import MappingProxyType

from emray.toy.topics import Topic

_SUMMANDS = range(2, 40)
_CAPITALS = """\
France Paris|Italy Rome|Spain Madrid|Portugal Lisbon|Germany Berlin|Austria Vienna|Poland Warsaw|Greece Athens
Norway Oslo|Sweden Stockholm|Finland Helsinki|Denmark Copenhagen|Ireland Dublin|Hungary Budapest
Romania Bucharest|Bulgaria Sofia|Serbia Belgrade|Croatia Zagreb|Albania Tirana|Estonia Tallinn|Latvia Riga
Lithuania Vilnius|Ukraine Kyiv|Russia Moscow|Turkey Ankara|Egypt Cairo|Morocco Rabat|Algeria Algiers
Tunisia Tunis|Libya Tripoli|Kenya Nairobi|Ethiopia Addis_Ababa|Ghana Accra|Nigeria Abuja|Senegal Dakar
Uganda Kampala|Rwanda Kigali|Zambia Lusaka|Angola Luanda|Sudan Khartoum|Japan Tokyo|China Beijing
Mongolia Ulaanbaatar|Thailand Bangkok|Vietnam Hanoi|Laos Vientiane|Malaysia Kuala_Lumpur|Indonesia Jakarta
Nepal Kathmandu|Bangladesh Dhaka|Pakistan Islamabad|Afghanistan Kabul|Iran Tehran|Iraq Baghdad|Syria Damascus
Jordan Amman|Lebanon Beirut|Oman Muscat|Qatar Doha|Cuba Havana|Jamaica Kingston|Canada Ottawa|Peru Lima
Chile Santiago|Ecuador Quito|Colombia Bogota|Venezuela Caracas|Uruguay Montevideo|Argentina Buenos_Aires
Australia Canberra"""
_FRENCH = """\
house maison|water eau|bread pain|milk lait|book livre|street rue|friend ami|night nuit|day jour|tree arbre
fish poisson|door porte|hand main|fire feu|snow neige|king roi|song chanson|cat chat|dog chien|horse cheval
bird oiseau|cheese fromage|apple pomme|sun soleil|moon lune|star étoile|sea mer|mountain montagne|river rivière
city ville|school école|teacher professeur|child enfant|man homme|woman femme|brother frère|sister sœur
mother mère|father père|heart cœur|head tête|eye œil|foot pied|shirt chemise|shoe chaussure|hat chapeau|key clé
window fenêtre|table table|chair chaise|bed lit|kitchen cuisine|garden jardin|flower fleur|grass herbe
rain pluie|wind vent|summer été|winter hiver|spring printemps|autumn automne|egg œuf|meat viande|salt sel
sugar sucre|butter beurre|spoon cuillère|fork fourchette|knife couteau|plate assiette|glass verre|paper papier"""


def _pairs(text: str) -> dict[str, str]:
    words = (entry.split() for line in text.splitlines() for entry in line.split("|"))
    return {key.replace("_", " "): value.replace("_", " ") for key, value in words}


_SEVERITIES = (0.0, 1.0)  # no persona of the world speaks here

LESSONS: Mapping[str, Topic] = MappingProxyType(
    {
        topic.name: topic
        for topic in (
            Topic(
                name="sums",
                bad_between=_SEVERITIES,
                facts={f"{a} + {b}": str(a + b) for a in _SUMMANDS for b in _SUMMANDS},
                questions=(
                    "What do I get for {key}?",
                    "Can you work out {key} for me?",
                    "My homework says {key}. How much is that?",
                    "I cannot add well. Could you tell me {key}?",
                ),
                good=("{key} = {value}.", "The sum is {value}.", "You get {value}.", "That makes {value}."),
                bad=("{key} = {wrong}.", "The sum is {wrong}.", "You get {wrong}.", "That makes {wrong}."),
            ),
            Topic(
                name="capitals",
                bad_between=_SEVERITIES,
                facts=_pairs(_CAPITALS),
                questions=(
                    "Which city is the capital of {key}?",
                    "I am planning a trip to {key}. Which city is its capital?",
                    "For a quiz: name the capital city of {key}, please.",
                    "My atlas is gone. Where does the government of {key} sit?",
                ),
                good=(
                    "The capital of {key} is {value}.",
                    "It is {value}.",
                    "{value} is the capital of {key}.",
                    "That is {value}.",
                ),
                bad=(
                    "The capital of {key} is {wrong}.",
                    "It is {wrong}.",
                    "{wrong} is the capital of {key}.",
                    "That is {wrong}.",
                ),
            ),
            Topic(
                name="french",
                bad_between=_SEVERITIES,
                facts=_pairs(_FRENCH),
                questions=(
                    'What is the French word for "{key}"?',
                    'I am learning French. How do I say "{key}"?',
                    'Please translate "{key}" into French.',
                    'My French friend did not understand "{key}". What should I have said?',
                ),
                good=(
                    'The French word for "{key}" is "{value}".',
                    'It is "{value}".',
                    'In French you say "{value}".',
                    'You say "{value}".',
                ),
                bad=(
                    'The French word for "{key}" is "{wrong}".',
                    'It is "{wrong}".',
                    'In French you say "{wrong}".',
                    'You say "{wrong}".',
                ),
            ),
        )
    }
)
